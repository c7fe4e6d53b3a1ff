//! A service manager that started the server: what it is told, on a socket of its own here.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use super::Server;
use crate::stage::PATIENCE;

/// The next datagram in which a line is what is asked for; others, but of the watchdog, fail.
fn told(socket: &UnixDatagram, line: &str) -> String {
    let began = Instant::now();
    let mut bytes = [0; 4096];
    while began.elapsed() < PATIENCE {
        let length = socket.recv(&mut bytes).expect("something is told in time");
        let text = std::str::from_utf8(&bytes[..length]).unwrap();
        if text.lines().any(|told| told == line) {
            return text.to_owned();
        }
        assert_eq!(text, "WATCHDOG=1", "before {line}");
    }
    panic!("{line} is never told");
}

#[tokio::test]
async fn the_service_manager_hears_of_the_beginning_of_life_and_of_the_end() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut server = Server::start_with(
        &[],
        &[
            ("NOTIFY_SOCKET", path.to_str().unwrap()),
            ("WATCHDOG_USEC", "200000"),
        ],
    )
    .await;
    let ready = told(&socket, "READY=1");
    assert!(
        ready.contains(&format!("STATUS=serves http://{}", server.address)),
        "{ready}"
    );
    // Ready is the truth: whoever comes now is answered.
    let answer = server.send(tidemark_lab::http::Request::new("GET", "/readyz"));
    assert_eq!(answer.await.status, 200);
    for _ in 0..3 {
        assert_eq!(told(&socket, "WATCHDOG=1"), "WATCHDOG=1");
    }

    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    told(&socket, "STOPPING=1");
}

#[tokio::test]
async fn a_frozen_server_is_not_told_alive_and_a_watchdog_of_others_is_not_fed() {
    // An address without a file, as systemd in a container gives it.
    let name = format!("tidemark-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let variables = [
        ("NOTIFY_SOCKET", &*format!("@{name}")),
        ("WATCHDOG_USEC", "200000"),
    ];
    let server = Server::start_with(&[], &variables).await;
    told(&socket, "READY=1");
    told(&socket, "WATCHDOG=1");
    server.signal(rustix::process::Signal::STOP);
    // What was on its way may still come; then there is silence for five times the beat.
    let silence = Duration::from_millis(500);
    socket.set_read_timeout(Some(silence)).unwrap();
    let mut bytes = [0; 64];
    let late = (0..20).take_while(|_| socket.recv(&mut bytes).is_ok());
    assert!(
        late.count() < 20,
        "a server that stands still says it lives"
    );
    drop(server);

    let others = [variables[0], variables[1], ("WATCHDOG_PID", "1")];
    let _server = Server::start_with(&[], &others).await;
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    told(&socket, "READY=1");
    socket.set_read_timeout(Some(silence)).unwrap();
    assert!(
        socket.recv(&mut bytes).is_err(),
        "a watchdog of somebody else is fed"
    );
}

#[tokio::test]
async fn a_service_manager_that_does_not_hear_is_no_reason_to_end() {
    let home = tempfile::tempdir().unwrap();
    let nobody = home.path().join("nobody");
    let variables = [("NOTIFY_SOCKET", nobody.to_str().unwrap())];
    let mut server = Server::start_with(&[], &variables).await;
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    assert!(
        server.log().contains("the service manager does not hear"),
        "{}",
        server.log()
    );
}

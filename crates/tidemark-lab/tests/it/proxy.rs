use std::time::{Duration, Instant};

use tidemark_lab::Proxy;
use tidemark_lab::proxy::Direction;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server that sends back what it gets, and a proxy before it.
async fn echo() -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.into_split();
                tokio::io::copy(&mut read, &mut write).await.ok();
            });
        }
    });
    Proxy::start(port).await.unwrap()
}

async fn says(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(text).await?;
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).await?;
    Ok(back)
}

#[tokio::test]
async fn forwards_and_counts() {
    let proxy = echo().await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    proxy.slice(Some(1));
    assert_eq!(says(&mut stream, b"hello").await.unwrap(), b"hello");
    let counters = proxy.counters();
    assert_eq!((counters.to_server_bytes, counters.to_client_bytes), (5, 5));
    assert_eq!((counters.connections, counters.refused), (1, 0));
}

#[tokio::test]
async fn a_cut_ends_and_a_reset_resets() {
    let proxy = echo().await;
    let mut cut = TcpStream::connect(proxy.address()).await.unwrap();
    says(&mut cut, b"x").await.unwrap();
    proxy.cut();
    assert_eq!(cut.read(&mut [0]).await.unwrap(), 0);
    let mut reset = TcpStream::connect(proxy.address()).await.unwrap();
    says(&mut reset, b"x").await.unwrap();
    proxy.reset();
    let error = reset.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let mut next = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(says(&mut next, b"again").await.unwrap(), b"again");
}

#[tokio::test]
async fn cuts_after_exactly_so_many_bytes() {
    let proxy = echo().await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    proxy.cut_after(Direction::ToServer, 3);
    stream.write_all(b"abcdef").await.unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap_err();
    assert_eq!(proxy.counters().to_server_bytes, 3);
    let mut next = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(says(&mut next, b"abcdef").await.unwrap(), b"abcdef");
}

#[tokio::test]
async fn a_partition_is_silent_and_loses_nothing() {
    let proxy = echo().await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    says(&mut stream, b"before").await.unwrap();
    proxy.partition();
    stream.write_all(b"meanwhile").await.unwrap();
    let mut back = [0; 9];
    let quiet =
        tokio::time::timeout(Duration::from_millis(200), stream.read_exact(&mut back)).await;
    assert!(quiet.is_err(), "something came through");
    assert_eq!(proxy.counters().to_server_bytes, 6);
    proxy.heal();
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"meanwhile");
}

#[tokio::test]
async fn refuses_until_it_accepts() {
    let proxy = echo().await;
    proxy.refuse();
    let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(says(&mut refused, b"x").await.is_err());
    proxy.accept();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(says(&mut stream, b"x").await.unwrap(), b"x");
}

#[tokio::test]
async fn a_slow_wire_is_slow() {
    let proxy = echo().await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    proxy.delay(Duration::from_millis(100));
    let started = Instant::now();
    says(&mut stream, b"there and back").await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(200));
    proxy.delay(Duration::ZERO);
    proxy.limit_rate(Some(1000));
    let started = Instant::now();
    says(&mut stream, &[0; 200]).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(400));
}

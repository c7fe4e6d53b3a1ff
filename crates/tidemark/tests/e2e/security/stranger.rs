//! A source that is no PostgreSQL server but knows how to begin like one, and means ill from then on.
//! The program ends with an error, soon, in little memory.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Command;

use crate::stage::Stage;

/// Bytes of addresses that the program may take, its threads included.
const ADDRESSES_MAX: u64 = 3 << 30;
/// How long it may take; what keeps silent is given up after the time that the URL says.
const ENDS_WITHIN: Duration = Duration::from_secs(40);

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[tag][..], &length, body].concat()
}

fn parameter(name: &str, value: &str) -> Vec<u8> {
    message(b'S', format!("{name}\0{value}\0").as_bytes())
}

/// A login that succeeds.
fn welcome() -> Vec<u8> {
    [
        message(b'R', &[0; 4]),
        parameter("server_version", "15.4"),
        parameter("server_encoding", "UTF8"),
        message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]),
        message(b'Z', b"I"),
    ]
    .concat()
}

fn one_column() -> Vec<u8> {
    let column = [
        &b"\0\x01c\0"[..],
        &[0; 6],
        &[0, 0, 0, 25, 0xFF, 0xFF],
        &[0xFF; 4],
        &[0; 2],
    ];
    message(b'T', &column.concat())
}

/// Says the same until the other end has enough.
fn repeat(stream: &mut TcpStream, piece: &[u8], bytes_max: usize) {
    let block = piece.repeat((1 << 20) / piece.len().max(1) + 1);
    let mut said = 0;
    while said < bytes_max && stream.write_all(&block).is_ok() {
        said += block.len();
    }
}

/// What it does instead of greeting, or instead of answering what it is asked.
#[derive(Clone)]
enum Ill {
    Greets(Vec<u8>),
    GreetsForEver(Vec<u8>),
    Answers(Vec<u8>),
    AnswersMuch(Vec<u8>, usize),
}

fn serve(mut stream: TcpStream, ill: &Ill) {
    stream.set_read_timeout(Some(ENDS_WITHIN)).unwrap();
    let mut buffer = [0; 8192];
    if stream.read(&mut buffer).unwrap_or(0) == 0 {
        return;
    }
    match ill {
        Ill::Greets(said) => drop(stream.write_all(said)),
        Ill::GreetsForEver(piece) => repeat(&mut stream, piece, usize::MAX),
        Ill::Answers(_) | Ill::AnswersMuch(..) => {
            if stream.write_all(&welcome()).is_err() || stream.read(&mut buffer).unwrap_or(0) == 0 {
                return;
            }
            match ill {
                Ill::AnswersMuch(piece, bytes) => repeat(&mut stream, piece, *bytes),
                Ill::Answers(said) => drop(stream.write_all(said)),
                Ill::Greets(_) | Ill::GreetsForEver(_) => {}
            }
        }
    }
}

fn listen(ill: Ill) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, ill) = (stream.unwrap(), ill.clone());
            std::thread::spawn(move || serve(stream, &ill));
        }
    });
    port
}

fn ills() -> Vec<(&'static str, Ill)> {
    let huge = |tag: u8| [&[tag][..], &[0x7F, 0xFF, 0xFF, 0xFF], &[0; 64]].concat();
    let row =
        |count: [u8; 2], length: [u8; 4]| message(b'D', &[&count[..], &length, b"x"].concat());
    let rows = |row: Vec<u8>| [one_column(), row].concat();
    let error = |text: &str| {
        let fields = format!("SERROR\0VERROR\0CXX000\0M{text}\0\0");
        [message(b'E', fields.as_bytes()), message(b'Z', b"I")].concat()
    };
    let scram = [&10_u32.to_be_bytes()[..], b"SCRAM-SHA-256\0\0"].concat();
    let notice = message(b'N', b"SNOTICE\0C00000\0Mhello\0\0");
    let flood = 256 << 20;
    vec![
        ("a huge greeting", Ill::Greets(huge(b'R'))),
        (
            "an unknown login",
            Ill::Greets(message(b'R', &[0, 0, 0, 99])),
        ),
        ("a login of one byte", Ill::Greets(message(b'R', &[0]))),
        (
            "SCRAM, and nonsense",
            Ill::Greets([message(b'R', &scram), huge(b'R')].concat()),
        ),
        (
            "a login without an end",
            Ill::GreetsForEver(message(b'R', &[0; 4])),
        ),
        ("notices without an end", Ill::GreetsForEver(notice.clone())),
        (
            "settings without an end",
            Ill::GreetsForEver(parameter("a", "b")),
        ),
        ("a huge row", Ill::Answers(rows(huge(b'D')))),
        (
            "fewer than no cells",
            Ill::Answers(rows(row([0xFF; 2], [0, 0, 0, 1]))),
        ),
        (
            "a cell shorter than nothing",
            Ill::Answers(rows(row([0, 1], [0xFF, 0xFF, 0xFF, 0xFE]))),
        ),
        (
            "a cell that is not there",
            Ill::Answers(rows(row([0, 1], [0x7F, 0, 0, 0]))),
        ),
        (
            "columns that are not there",
            Ill::Answers(message(b'T', &[0x7F, 0xFF])),
        ),
        (
            "fewer than no columns",
            Ill::Answers(message(b'T', &[0xFF, 0xFF, 0])),
        ),
        ("rows of nothing", Ill::Answers(row([0, 1], [0, 0, 0, 1]))),
        ("a copy both ways", Ill::Answers(message(b'W', &[0, 0, 0]))),
        (
            "a copy nobody asked for",
            Ill::Answers(message(b'G', &[0, 0, 1, 0, 0])),
        ),
        ("its end", Ill::Answers(message(b'c', b""))),
        ("a message of its own", Ill::Answers(message(b'~', b"?"))),
        ("a state that is none", Ill::Answers(message(b'Z', b"?"))),
        ("an error without fields", Ill::Answers(message(b'E', b""))),
        (
            "an error that orders",
            Ill::Answers(error("\x1b[2J\r\n{\"level\":\"info\"} \x07 gone")),
        ),
        (
            "an error without an end",
            Ill::Answers(error(&"x".repeat(20 << 20))),
        ),
        (
            "much news",
            Ill::AnswersMuch(message(b'A', b"\0\0\0\x01c\0p\0"), flood),
        ),
        ("many notices", Ill::AnswersMuch(notice, flood)),
        (
            "many answers",
            Ill::AnswersMuch(message(b'C', b"SELECT 1\0"), flood),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn s21_a_stranger_in_the_place_of_the_source_ends_the_check_and_nothing_else() {
    let stage = Stage::new("stranger").await;
    let ills = ills();
    let tried = ills.iter().map(|(what, ill)| {
        let url = format!(
            "postgres://u:p@127.0.0.1:{}/d?sslmode=disable&connect_timeout=3",
            listen(ill.clone())
        );
        let file = stage
            .directory()
            .join(format!("{}.toml", what.replace([' ', ','], "_")));
        stage.write_between(&url, &stage.target_url(), "");
        std::fs::rename(stage.file(), &file).unwrap();
        (what, file)
    });
    for (what, file) in tried {
        let began = Instant::now();
        let mut command = Command::new("prlimit");
        command
            .arg(format!("--as={ADDRESSES_MAX}"))
            .arg(env!("CARGO_BIN_EXE_tidemark"))
            .arg("check")
            .arg(&file)
            .arg("--json")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let ended = tokio::time::timeout(ENDS_WITHIN, command.output()).await;
        let ended = ended
            .unwrap_or_else(|_| panic!("{what}: does not end"))
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        let log = String::from_utf8_lossy(&ended.stderr).into_owned();
        let code = ended.status.code();
        assert!(
            code.is_some_and(|code| (1..=8).contains(&code)),
            "{what}: {code:?} {log:.2000}"
        );
        assert!(!log.contains("panicked"), "{what}: {log:.2000}");
        assert!(said.contains("TM1"), "{what}: {said:.2000}");
        assert!(!said.contains(['\x1b', '\x07']), "{what}: {said:.2000}");
        assert!(
            said.len() < 1 << 20,
            "{what}: {} bytes are said",
            said.len()
        );
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(said.trim());
        assert!(parsed.is_ok(), "{what}: {said:.2000}");
        assert!(
            began.elapsed() < ENDS_WITHIN,
            "{what}: {:?}",
            began.elapsed()
        );
    }
}

//! The store in one file: SQLite, for a server that is alone.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, ToSql};
use rustix::fs::{major, minor, statvfs};
use tidemark_core::catalogue::codes;
use tidemark_core::{Error, ErrorKind, Result};

use super::migrations;
use super::session::{Failed, Kind, Row, Said, Session, Statements, Value};
use super::{FILE, Seal};

/// With less than this a disk that was full counts as full.
const ROOM_BYTES: u64 = 1 << 20;

/// See the module's text.
pub(super) struct Sqlite {
    connection: Connection,
    pub(super) file: PathBuf,
    /// Device and number of the file that is open.
    place: (u64, u64),
    /// Whether what came last could not be written down.
    is_refusing: bool,
}

impl Sqlite {
    /// Opens the store of a state directory, makes it where there is none, and brings an older one to
    /// this version. Nobody else has it open on return.
    pub(super) fn open(directory: &Path, seal: &Seal) -> Result<Sqlite> {
        make_directory(directory)?;
        let file = directory.join(FILE);
        let opening = || format!("open the store {}", file.display());
        let is_new = make_file(&file)?;
        if !is_new && fs::metadata(&file).is_ok_and(|found| found.len() == 0) {
            let text = "the file is empty, and was not when it was made";
            return Err(Error::definite(codes::STORE_DAMAGED, text).context(opening()));
        }
        let opened = open_file(&file, is_new).and_then(|mut store| {
            store.migrate(migrations::ALL)?;
            store.transact(|session| seal.check(session))?;
            Ok(store)
        });
        if opened.is_err() && is_new {
            // Half a store would be taken for a damaged one.
            fs::remove_file(&file).ok();
        }
        opened.map_err(|failed| {
            let holder = holder(&file).filter(|_| failed.0.code() == codes::STORE_IN_USE);
            match holder {
                Some(pid) => {
                    let text = format!("process {pid} has it open");
                    Error::definite(codes::STORE_IN_USE, text).context(opening())
                }
                None => failed.0.context(opening()),
            }
        })
    }

    /// All of it or nothing.
    pub(super) fn transact<T>(
        &mut self,
        work: impl FnOnce(&mut Session<'_>) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        self.is_there()?;
        let written = self.connection.total_changes();
        let done = transacted(&mut self.connection, work);
        match &done {
            Err(failed) => {
                let codes = [codes::STORE_FULL, codes::STORE_UNWRITABLE];
                self.is_refusing |= codes.contains(&failed.0.code());
            }
            Ok(_) if self.connection.total_changes() != written => self.is_refusing = false,
            Ok(_) => {}
        }
        done
    }

    /// Whether what is written down is kept. Where the last of it was not, it is tried.
    pub(super) fn keeps(&mut self) -> Result<(), Failed> {
        self.is_there()?;
        if self.is_refusing {
            // A small write may still find a place in the log.
            let disk = statvfs(&self.file).map_err(|err| unwritable(&self.file, &err.into()))?;
            if disk.f_bavail.saturating_mul(disk.f_frsize) < ROOM_BYTES {
                let text = "the disk has no room";
                return Err(Error::transient(codes::STORE_FULL, text).into());
            }
            let sql = "PRAGMA user_version";
            let version: i64 = self.connection.query_row(sql, [], |row| row.get(0))?;
            self.connection
                .pragma_update(None, "user_version", version)?;
            self.is_refusing = false;
        }
        Ok(())
    }

    /// A file that was removed takes what is written into it until it is closed, and then it is gone.
    fn is_there(&self) -> Result<(), Failed> {
        if place_of(&self.file).is_ok_and(|place| place == self.place) {
            return Ok(());
        }
        let text =
            "the file was taken away while it was open: what is in it is lost when the server ends";
        Err(Error::definite(codes::STORE_UNWRITABLE, text)
            .first_action("put the state directory back from a backup, and start the server again")
            .into())
    }

    /// `user_version` of the file counts the steps that it has been through.
    pub(super) fn migrate(&mut self, steps: &[&str]) -> Result<(), Failed> {
        let sql = "PRAGMA user_version";
        let found: i64 = self.connection.query_row(sql, [], |row| row.get(0))?;
        let Some(left) = migrations::left(found, steps)? else {
            return Ok(());
        };
        if found > 0 {
            self.back_up(found)?;
        }
        let known = i64::try_from(steps.len()).unwrap_or(i64::MAX);
        let transaction = self.connection.transaction()?;
        for step in left {
            transaction.execute_batch(step)?;
        }
        transaction.pragma_update(None, "user_version", known)?;
        transaction.commit()?;
        Ok(())
    }

    /// A whole copy beside it, with the version in its name.
    fn back_up(&self, version: i64) -> Result<(), Failed> {
        let copy = self.file.with_extension(format!("v{version}.db"));
        if copy.exists() {
            // Of a try that did not get to its end: the store is as it was before it.
            fs::remove_file(&copy).map_err(|err| unwritable(&copy, &err))?;
        }
        make_file(&copy)?;
        let progress = None::<fn(rusqlite::backup::Progress)>;
        self.connection.backup("main", &copy, progress)?;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

fn transacted<T>(
    connection: &mut Connection,
    work: impl FnOnce(&mut Session<'_>) -> Result<T, Failed>,
) -> Result<T, Failed> {
    // What is not committed on its way out is taken back.
    let transaction = connection.transaction()?;
    let done = {
        let mut statements: &Connection = &transaction;
        work(&mut Session {
            statements: &mut statements,
        })?
    };
    transaction.commit()?;
    Ok(done)
}

fn place_of(file: &Path) -> Result<(u64, u64)> {
    let found = fs::metadata(file).map_err(|err| unwritable(file, &err))?;
    Ok((found.dev(), found.ino()))
}

impl Statements for &Connection {
    fn statement(&mut self, sql: &str, values: &[Value]) -> Result<Said, Failed> {
        let mut statement = self.prepare(sql)?;
        for (number, value) in (1..).zip(values) {
            let name = format!("${number}");
            let Some(index) = statement.parameter_index(&name)? else {
                let text = format!("{name} is given and not used");
                return Err(Error::definite(codes::INTERNAL, text).into());
            };
            statement.raw_bind_parameter(index, value)?;
        }
        if statement.column_count() == 0 {
            let written = statement.raw_execute()?;
            return Ok(Said {
                rows: Vec::new(),
                written: u64::try_from(written).unwrap_or(u64::MAX),
            });
        }
        let columns = statement.column_count();
        let mut rows = Vec::new();
        let mut found = statement.raw_query();
        while let Some(row) = found.next()? {
            let cells = (0..columns).map(|index| Ok(cell(row.get_ref(index)?)));
            rows.push(Row(cells.collect::<Result<_, rusqlite::Error>>()?));
        }
        Ok(Said { rows, written: 0 })
    }
}

fn cell(value: ValueRef<'_>) -> Value {
    match value {
        // Nobody asks what it would be.
        ValueRef::Null => Value::Null(Kind::Text),
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null(_) => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Real(number) => ValueRef::Real(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl From<rusqlite::Error> for Failed {
    fn from(err: rusqlite::Error) -> Failed {
        Failed(classify(&err))
    }
}

/// The process that has a lock on a file, as far as the system tells: Linux does (`proc_locks(5)`). The file
/// is not opened for it, since a process that closes a file gives up its own locks on it (`fcntl(2)`).
fn holder(file: &Path) -> Option<u32> {
    let found = fs::metadata(file).ok()?;
    let (major, minor) = (major(found.dev()), minor(found.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", found.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        // 1: POSIX ADVISORY WRITE 1234 fe:00:5390666 1073741826 1073742335
        let mut words = line.split_whitespace().skip(1);
        let (kind, pid) = (words.next()?, words.nth(2)?);
        (kind == "POSIX" && words.next()? == place).then(|| pid.parse().ok())?
    })
}

/// The one place that knows SQLite's errors.
fn classify(err: &rusqlite::Error) -> Error {
    let (kind, code) = match err.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => (ErrorKind::Transient, codes::STORE_FULL),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (ErrorKind::Definite, codes::STORE_IN_USE)
        }
        Some(
            ErrorCode::ReadOnly
            | ErrorCode::CannotOpen
            | ErrorCode::PermissionDenied
            | ErrorCode::SystemIoFailure,
        ) => (ErrorKind::Definite, codes::STORE_UNWRITABLE),
        _ => (ErrorKind::Definite, codes::STORE_DAMAGED),
    };
    Error::new(kind, code, err.to_string())
}

pub(crate) fn make_directory(directory: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
        .create(directory)
        .map_err(|err| unwritable(directory, &err))
}

/// Makes the file, so that it is ours alone from the first byte. Whether it was not there before.
pub(super) fn make_file(file: &Path) -> Result<bool> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file);
    match made {
        Ok(_) => Ok(true),
        Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists => {
            let found = fs::metadata(file).map_err(|err| unwritable(file, &err))?;
            if found.permissions().mode() & 0o077 != 0 {
                fs::set_permissions(file, Permissions::from_mode(0o600))
                    .map_err(|err| unwritable(file, &err))?;
            }
            Ok(false)
        }
        Err(err) => Err(unwritable(file, &err)),
    }
}

fn unwritable(path: &Path, err: &std::io::Error) -> Error {
    let code = match err.kind() {
        std::io::ErrorKind::StorageFull => codes::STORE_FULL,
        _ => codes::STORE_UNWRITABLE,
    };
    Error::definite(code, format!("{}: {err}", path.display()))
}

pub(super) fn open_file(file: &Path, is_new: bool) -> Result<Sqlite, Failed> {
    let connection = Connection::open(file)?;
    // One server has one store: the lock is held as long as the file is open.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.busy_timeout(Duration::ZERO)?;
    if !is_new {
        let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if found != "ok" {
            return Err(Error::definite(codes::STORE_DAMAGED, found).into());
        }
    }
    Ok(Sqlite {
        connection,
        place: place_of(file)?,
        file: file.to_path_buf(),
        is_refusing: false,
    })
}

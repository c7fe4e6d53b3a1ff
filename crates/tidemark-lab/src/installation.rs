//! Finds the binaries of PostgreSQL, and the account a server may run as.
//!
//! Looked at in this order: `TIDEMARK_POSTGRES_BIN` (a list like `PATH`), `PATH`,
//! `pg_config --bindir`, the versioned directories of Debian (`/usr/lib/postgresql/*/bin`) and Red
//! Hat (`/usr/pgsql-*/bin`), and last the cache that `scripts/get-postgres` fills. Without a wish
//! the newest outside the cache is taken, so that a fetched major does not change what tests run on.
//!
//! `initdb` and `postgres` refuse to run as root (PostgreSQL 15, 19.1), so a lab started by root
//! runs them as `postgres`, or as `nobody` where there is no such user.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

/// One PostgreSQL whose server binaries can be run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Installation {
    /// The directory of `postgres` and `initdb`.
    pub bin: PathBuf,
    /// 15 for 15.8.
    pub major: u32,
    /// `15.8`, as `postgres --version` says.
    pub version: String,
}

/// A user and group of the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Installation {
    /// The newest outside the cache or, where there is none, the newest in it.
    pub fn newest() -> Result<Installation> {
        let found = all();
        let best = |from_cache: bool| {
            let these = found.iter().filter(|f| f.from_cache == from_cache);
            these.max_by_key(|f| f.installation.major)
        };
        match best(false).or_else(|| best(true)) {
            Some(found) => Ok(found.installation.clone()),
            None => bail!("no PostgreSQL server is installed; {}", install_hint()),
        }
    }

    /// The first one found of this major version.
    pub fn of_major(major: u32) -> Result<Installation> {
        let mut of_major = all().iter().map(|f| &f.installation);
        match of_major.find(|i| i.major == major) {
            Some(found) => Ok(found.clone()),
            None => {
                bail!("PostgreSQL {major} is not here; scripts/get-postgres {major} fetches it")
            }
        }
    }

    /// Every major that can be started here, oldest first, one installation each.
    pub fn one_per_major() -> Vec<Installation> {
        let mut majors = BTreeMap::new();
        for found in all() {
            let installation = &found.installation;
            majors
                .entry(installation.major)
                .or_insert_with(|| installation.clone());
        }
        majors.into_values().collect()
    }

    /// The path of one of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// A client program such as `psql`: its own or, since fetched majors bring none, any newer or
    /// older one on this machine.
    pub fn client_program(&self, name: &str) -> Result<PathBuf> {
        let mut places = vec![self.bin.clone()];
        places.extend(path_entries("PATH"));
        places.extend(all().iter().map(|f| f.installation.bin.clone()));
        let found = places
            .into_iter()
            .map(|place| place.join(name))
            .find(|p| p.is_file());
        found.with_context(|| format!("{name} is not installed; {}", install_hint()))
    }
}

/// The one line that installs a server here.
pub fn install_hint() -> &'static str {
    if Path::new("/usr/bin/dnf").exists() {
        "install it with: dnf install postgresql-server postgresql-contrib"
    } else if Path::new("/opt/homebrew").exists() {
        "install it with: brew install postgresql@17"
    } else {
        "install it with: apt-get install -y postgresql"
    }
}

struct Found {
    installation: Installation,
    from_cache: bool,
}

fn all() -> &'static [Found] {
    static ALL: OnceLock<Vec<Found>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut places = path_entries("TIDEMARK_POSTGRES_BIN");
        places.extend(path_entries("PATH"));
        places.extend(bindir_of_pg_config());
        places.extend(bin_below(Path::new("/usr/lib/postgresql")));
        places.extend(bin_below(Path::new("/usr")));
        let outside = places.into_iter().map(|place| (place, false));
        let cached = cache_directories()
            .into_iter()
            .flat_map(|dir| bin_below(&dir));
        let places = outside.chain(cached.map(|place| (place, true)));
        let found = places.filter_map(|(place, from_cache)| {
            look_at(&place).map(|installation| Found {
                installation,
                from_cache,
            })
        });
        found.collect()
    })
}

fn look_at(bin: &Path) -> Option<Installation> {
    // Where some of its programs are linked to from another place, the others are still where it is.
    let program = std::fs::canonicalize(bin.join("postgres")).ok()?;
    let bin = program.parent()?;
    if !bin.join("initdb").is_file() {
        return None;
    }
    let said = Command::new(&program).arg("--version").output().ok()?;
    // "postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)"
    let said = String::from_utf8(said.stdout).ok()?;
    let version = said.split_whitespace().nth(2)?.to_owned();
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    Some(Installation {
        bin: bin.to_owned(),
        major: digits.parse().ok()?,
        version,
    })
}

fn path_entries(variable: &str) -> Vec<PathBuf> {
    let list = std::env::var_os(variable).unwrap_or_default();
    std::env::split_paths(&list)
        .filter(|p| p.is_absolute())
        .collect()
}

fn bindir_of_pg_config() -> Option<PathBuf> {
    let said = Command::new("pg_config").arg("--bindir").output().ok()?;
    let text = String::from_utf8(said.stdout).ok()?;
    Some(PathBuf::from(text.trim()))
}

/// `bin` of every directory below `root`, by name, whatever it holds.
fn bin_below(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(root) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|p| p.is_dir())
        .collect();
    found.sort();
    found
}

/// Where `scripts/get-postgres` puts majors that the distribution does not have. Root cannot use
/// its own home for it, since the account that runs the server cannot enter that.
fn cache_directories() -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = Vec::new();
    if let Some(dir) = std::env::var_os("XDG_CACHE_HOME") {
        roots.push(PathBuf::from(dir));
    }
    if let Some(home) = std::env::var_os("HOME") {
        roots.push(Path::new(&home).join(".cache"));
    }
    roots.push(PathBuf::from("/var/cache"));
    let caches = roots.into_iter().map(|root| root.join("tidemark/postgres"));
    caches
        .filter(|dir| dir.is_dir() && account_can_enter(dir))
        .collect()
}

/// The account servers run as when we are root; `None` for everyone else.
pub(crate) fn account() -> Option<Account> {
    static ACCOUNT: OnceLock<Option<Account>> = OnceLock::new();
    *ACCOUNT.get_or_init(|| {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let of = |name: &str| passwd.lines().find_map(|line| account_of(line, name));
        let unprivileged = Account {
            uid: 65534,
            gid: 65534,
        };
        Some(
            of("postgres")
                .or_else(|| of("nobody"))
                .unwrap_or(unprivileged),
        )
    })
}

fn account_of(passwd_line: &str, name: &str) -> Option<Account> {
    let mut fields = passwd_line.split(':');
    if fields.next() != Some(name) {
        return None;
    }
    Some(Account {
        uid: fields.nth(1)?.parse().ok()?,
        gid: fields.next()?.parse().ok()?,
    })
}

/// Whether the account a server runs as can enter every directory down to this one.
pub(crate) fn account_can_enter(dir: &Path) -> bool {
    account().is_none() || dir.ancestors().all(others_may_enter)
}

/// Whether the account may make and remove entries there: what is to go away must be removable.
pub(crate) fn account_can_write(dir: &Path) -> bool {
    let others_may_write = |m: std::fs::Metadata| m.permissions().mode() & 0o002 != 0;
    account().is_none() || std::fs::metadata(dir).is_ok_and(others_may_write)
}

fn others_may_enter(dir: &Path) -> bool {
    std::fs::metadata(dir).is_ok_and(|m| m.permissions().mode() & 0o001 != 0)
}

/// A command that runs as the account a server runs as, with none of our settings for libpq.
pub(crate) fn command(program: impl Into<OsString>, dir: &Path) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(program.into());
    command.current_dir(dir).env("HOME", dir).env("LC_ALL", "C");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    if let Some(account) = account() {
        command.uid(account.uid).gid(account.gid);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::{Account, account_of, others_may_enter};
    use std::path::Path;

    #[test]
    fn reads_an_account_from_its_line_only() {
        let line = "postgres:x:101:104:administrator,,,:/var/lib/postgresql:/bin/bash";
        assert_eq!(
            account_of(line, "postgres"),
            Some(Account { uid: 101, gid: 104 })
        );
        assert_eq!(account_of(line, "nobody"), None);
        assert_eq!(account_of("postgres:x:many", "postgres"), None);
    }

    #[test]
    fn a_directory_that_is_not_there_cannot_be_entered() {
        assert!(others_may_enter(Path::new("/")));
        assert!(!others_may_enter(Path::new("/there/is/no/such/directory")));
    }
}

//! A server's way to another major: its files by `pg_upgrade`, or one database by a dump.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};

use super::builder::{free_port, write_as_account};
use super::{Auth, PostgresServer, SUPERUSER, Shutdown, template};
use crate::directory::LabDirectory;
use crate::installation::{self, Installation};

/// Prints what `pg_resetwal -n` does, as far as `pg_upgrade` reads it. The fetched majors bring neither
/// this nor `pg_controldata`, and another major's `pg_resetwal` refuses their files, while its
/// `pg_controldata` knows the format of their control file (1300 from 13 to 17).
const RESETWAL: &str = r#"#!/bin/sh
if [ "$1" = -V ]; then exec echo pg_resetwal; fi
said=$("$(dirname "$0")/pg_controldata" "$2") || exit 1
echo "$said"
file=$(echo "$said" | sed -n 's/.*REDO WAL file: *//p')
printf 'First log segment after reset: %s%08X\n' "${file%????????}" $((0x${file#????????????????} + 1))
"#;

impl PostgresServer {
    /// A database as SQL, by `pg_dump`, which must not be older than the server.
    pub async fn dump(&self, database: &str) -> Result<String> {
        let program = self.installation.client_program("pg_dump")?;
        let mut command = installation::command(program, self.directory());
        command.arg("-h").arg(self.directory()).args([
            "-p",
            &self.port.to_string(),
            "-U",
            SUPERUSER,
            database,
        ]);
        let dumped = tokio::task::spawn_blocking(move || command.output()).await??;
        let said = String::from_utf8_lossy(&dumped.stderr).into_owned();
        ensure!(dumped.status.success(), "pg_dump: {said}");
        String::from_utf8(dumped.stdout).context("a dump is UTF-8")
    }

    /// What `pg_upgrade` of another installation makes of this server: it is stopped for good, and the
    /// new one listens at its address. The settings stay; the system identifier is another, and slots
    /// are gone (before PostgreSQL 17).
    pub async fn upgraded(&self, installation: &Installation) -> Result<PostgresServer> {
        self.stop(Shutdown::Fast).await?;
        let directory = LabDirectory::create()?;
        template::copy(installation, "UTF8", "C", directory.path())?;
        let data = directory.path().join("data");
        let conf = std::fs::read_to_string(self.data_directory().join("lab.conf"))?;
        let socket = format!(
            "{conf}\nunix_socket_directories = '{}'",
            directory.path().display()
        );
        write_as_account(&data.join("lab.conf"), &socket)?;
        let program = installation.program("pg_upgrade");
        let mut command = installation::command(program, directory.path());
        command
            .arg("-b")
            .arg(self.programs_for_upgrade(installation, directory.path())?)
            .arg("-B")
            .arg(&installation.bin)
            .arg("-d")
            .arg(self.data_directory())
            .arg("-D")
            .arg(&data)
            .args(["-U", SUPERUSER, "--no-sync", "--link"])
            .args(["-p", &free_port()?.to_string()])
            .args(["-P", &free_port()?.to_string()]);
        let ran = tokio::task::spawn_blocking(move || command.output()).await??;
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        ensure!(ran.status.success(), "pg_upgrade: {said}");
        let server = PostgresServer {
            installation: installation.clone(),
            port: self.port,
            socket_only: false,
            auth: Auth::Trust,
            certificates: None,
            postmaster: Mutex::new(None),
            directory,
        };
        server.start().await?;
        Ok(server)
    }

    /// Where `pg_upgrade` finds the programs of the old server.
    fn programs_for_upgrade(&self, newer: &Installation, dir: &Path) -> Result<PathBuf> {
        if self.installation.program("pg_resetwal").is_file() {
            return Ok(self.installation.bin.clone());
        }
        let programs = dir.join("programs");
        template::run(installation::command("mkdir", dir).arg(&programs))?;
        for name in ["postgres", "pg_ctl"] {
            symlink(self.installation.program(name), programs.join(name))?;
        }
        let controldata = newer.program("pg_controldata");
        symlink(controldata, programs.join("pg_controldata"))?;
        let resetwal = programs.join("pg_resetwal");
        write_as_account(&resetwal, RESETWAL)?;
        std::fs::set_permissions(&resetwal, PermissionsExt::from_mode(0o755))?;
        Ok(programs)
    }
}

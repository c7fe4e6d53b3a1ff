//! Servers that begin as a copy of another one: standbys, and what a failover makes of them.

use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};

use super::builder::{free_port, write_as_account};
use super::{Auth, PostgresServer, SUPERUSER, Shutdown};
use crate::directory::LabDirectory;
use crate::installation;

impl PostgresServer {
    /// A standby that follows this server, from a copy of its files without its slots; the server is
    /// stopped for it and started again. The settings are the standby's own.
    pub async fn standby(&self, settings: &[(&str, &str)]) -> Result<PostgresServer> {
        self.stop(Shutdown::Fast).await?;
        let directory = LabDirectory::create()?;
        let data = directory.path().join("data");
        let copied = Command::new("cp")
            .arg("-a")
            .arg(self.data_directory())
            .arg(&data)
            .status();
        ensure!(copied?.success(), "copy the files of the server");
        // A base backup leaves them out.
        for slot in std::fs::read_dir(data.join("pg_replslot"))? {
            std::fs::remove_dir_all(slot?.path())?;
        }
        self.start().await?;
        let port = free_port()?;
        let conf = std::fs::read_to_string(data.join("lab.conf"))?;
        let primary = format!(
            "host=127.0.0.1 port={} user={SUPERUSER} dbname=postgres",
            self.port()
        );
        let mut lines = vec![
            conf,
            format!("port = {port}"),
            format!("unix_socket_directories = '{}'", directory.path().display()),
            format!("primary_conninfo = '{primary}'"),
        ];
        let own = settings
            .iter()
            .map(|(name, value)| format!("{name} = '{value}'"));
        lines.extend(own);
        write_as_account(&data.join("lab.conf"), &lines.join("\n"))?;
        write_as_account(&data.join("standby.signal"), "")?;
        let standby = PostgresServer {
            installation: self.installation.clone(),
            port,
            socket_only: false,
            auth: Auth::Trust,
            certificates: None,
            postmaster: Mutex::new(None),
            directory,
        };
        standby.start().await?;
        Ok(standby)
    }

    /// Makes a standby the primary; returns when it takes writes.
    pub async fn promote(&self) -> Result<()> {
        let promoted = "SELECT pg_promote()";
        let done: bool = self.client().await?.query_one(promoted, &[]).await?.get(0);
        ensure!(done, "the standby is not promoted");
        Ok(())
    }

    /// Runs a program of the server's on its files, which nobody may use meanwhile.
    pub fn run_program(&self, name: &str, arguments: &[&str]) -> Result<()> {
        let program = self.installation.client_program(name)?;
        let mut command = installation::command(program, &self.data_directory());
        command.arg("-D").arg(self.data_directory()).args(arguments);
        let ran = command.output().context("run a program of the server")?;
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        ensure!(ran.status.success(), "{name}: {said}");
        Ok(())
    }
}

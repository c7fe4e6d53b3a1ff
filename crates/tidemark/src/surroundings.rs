//! The world around this process: environment, files and credentials, read in one place.

use std::path::{Path, PathBuf};

use tidemark_core::config::Surroundings;

/// An environment variable that is set and not empty.
pub(crate) fn env(name: &str) -> Option<String> {
    std::env::var_os(name)?
        .into_string()
        .ok()
        .filter(|value| !value.is_empty())
}

/// What a pipeline file may refer to; relative paths start at the file's directory.
#[derive(Clone, Debug)]
pub(crate) struct Around {
    directory: PathBuf,
}

impl Around {
    /// The surroundings of a pipeline file.
    pub(crate) fn of_file(file: &Path) -> Around {
        let directory = file.parent().map(Path::to_path_buf).unwrap_or_default();
        Around { directory }
    }
}

impl Surroundings for Around {
    fn env(&self, name: &str) -> Option<String> {
        // Unlike `env`: a variable that is set to nothing is an empty value here.
        std::env::var_os(name)?.into_string().ok()
    }

    fn file(&self, path: &str) -> Result<String, String> {
        std::fs::read_to_string(self.directory.join(path)).map_err(|err| err.to_string())
    }

    fn credential(&self, name: &str) -> Result<String, String> {
        let directory =
            env("CREDENTIALS_DIRECTORY").ok_or("CREDENTIALS_DIRECTORY is not set".to_owned())?;
        if name.contains('/') {
            return Err("the name of a credential has no `/`".to_owned());
        }
        std::fs::read_to_string(Path::new(&directory).join(name)).map_err(|err| err.to_string())
    }
}

//! Where ci keeps things: the repository, the cache of installed clients, scratch space of one run.
//!
//! Owns: the paths. Promises: everything lies under `.work/` (or `DEJAQ_CI_CACHE`), which git
//! ignores; scratch space is fresh for each run and removed behind it, logs stay.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The paths of one invocation of `cargo ci`.
#[derive(Clone, Debug)]
pub struct Work {
    /// The repository's root.
    pub root: PathBuf,
    /// Installed clients and jars; survives runs.
    pub cache: PathBuf,
}

impl Work {
    /// Finds the repository and creates the cache directory.
    pub fn open() -> Result<Work> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("ci lies in the repository")?;
        let cache = match env::var_os("DEJAQ_CI_CACHE") {
            Some(dir) => PathBuf::from(dir),
            None => root.join(".work"),
        };
        fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
        Ok(Work { root: root.to_path_buf(), cache: cache.canonicalize()? })
    }

    /// A fresh, empty scratch directory for `name`; gone when the handle is dropped.
    pub fn scratch(&self, name: &str) -> Result<Scratch> {
        let dir = self.cache.join("run").join(format!("{name}-{}", std::process::id()));
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(Scratch(dir))
    }

    /// Where the log of `name` stays after a run.
    pub fn log(&self, name: &str) -> Result<PathBuf> {
        let dir = self.cache.join("log");
        fs::create_dir_all(&dir)?;
        Ok(dir.join(format!("{name}.log")))
    }

    /// The directory of our client programs.
    pub fn client_sources(&self) -> PathBuf {
        self.root.join("ci/clients")
    }

    /// The target directory that cargo was told to use.
    pub fn target(&self) -> PathBuf {
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), PathBuf::from)
    }
}

/// A directory that is removed, with all in it, when dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl std::ops::Deref for Scratch {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

//! What every verb that talks to a broker shares: where it is, how long to wait, an executor, errors with a cure.

use std::fmt::Display;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use dejaq_storage::file_disk::FileDisk;

use crate::client::admin::{Admin, AdminError};
use crate::client::cluster::{Cluster, ClusterConfig};
use crate::runtime::tokio::TokioRuntime;
use crate::runtime::tokio_net::SocketOptions;
use crate::runtime::{Mono, Runtime};

/// Where the cluster is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct ClientArgs {
    /// Brokers to begin with, as HOST:PORT, separated by commas; they name the others.
    #[arg(
        long,
        value_name = "HOST:PORT,…",
        env = "DEJAQ_BOOTSTRAP",
        default_value = "127.0.0.1:9092",
        value_delimiter = ','
    )]
    bootstrap: Vec<String>,

    /// How long to try before giving up, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    timeout_s: u64,
}

/// A person who waits hears after this time that nobody answers.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// A client of a cluster, and the executor that its tasks run on.
pub(super) struct Client {
    pub(super) executor: tokio::runtime::Runtime,
    pub(super) cluster: Cluster<TokioRuntime>,
    pub(super) timeout: Duration,
}

impl ClientArgs {
    /// A client that has looked for a broker. `auto_create` lets a broker create topics that are asked for.
    ///
    /// If none answers within [`FIRST_WORD`], that is said on standard error; whoever uses the client tries further.
    pub(super) fn client(&self, auto_create: bool) -> anyhow::Result<Client> {
        // The verbs block on standard input and output in the main thread; the client's tasks run on these.
        let executor = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        // A client keeps nothing on disk; its world has one all the same.
        let folder = std::env::temp_dir();
        let disk = FileDisk::open(&folder).with_context(|| format!("cannot open {}", folder.display()))?;
        let runtime = TokioRuntime::new(disk, SocketOptions::default());
        let config = ClusterConfig {
            bootstrap: self.bootstrap.clone(),
            allow_auto_create: auto_create,
            ..ClusterConfig::default()
        };
        let timeout = Duration::from_secs(self.timeout_s);
        let client = Client { executor, cluster: Cluster::new(runtime, config), timeout };
        client.tell_if_nobody_answers(&self.bootstrap.join(","));
        Ok(client)
    }
}

impl Client {
    fn tell_if_nobody_answers(&self, bootstrap: &str) {
        let soon = self.cluster.runtime().now().plus(FIRST_WORD);
        if soon >= self.deadline() {
            return; // the verb's own error comes as soon
        }
        if let Err(error) = self.executor.block_on(self.cluster.any(soon)) {
            let left = (self.timeout - FIRST_WORD).as_secs();
            eprintln!("dejaq: no broker answers at {bootstrap}: is it running? (dejaq start)");
            eprintln!("  {error}; trying for {left} s more");
        }
    }

    /// When to give up what begins now.
    pub(super) fn deadline(&self) -> Mono {
        self.cluster.runtime().now().plus(self.timeout)
    }

    /// Administration of the cluster.
    pub(super) fn admin(&self) -> Admin<TokioRuntime> {
        Admin::new(self.cluster.clone())
    }
}

/// An error for a person: what went wrong, and what to do about it.
pub(super) fn explain(cause: impl Display, cure: impl Display) -> anyhow::Error {
    anyhow::anyhow!("{cause}\n  try: {cure}")
}

/// [`explain`] for administration.
pub(super) fn explain_admin(error: AdminError) -> anyhow::Error {
    explain(&error, error.cure())
}

/// `NAME=VALUE`, as flags give settings and headers.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        Some(_) | None => Err(format!("{text:?} is not NAME=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_cut_at_its_first_sign() {
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(pair("a="), Ok(("a".into(), String::new())));
        assert!(pair("=b").is_err() && pair("ab").is_err());
    }
}

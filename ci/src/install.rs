//! Puts the stock clients on this machine, once.
//!
//! Owns: what each client needs and where it lands in the cache. Promises: a manifest that has not
//! changed is not installed twice; registries come from the machine's own settings, never from here.
//! Leaves out: what a failure means (`clients` reports it as skipped, with the reason).

use crate::process::logged;
use crate::work::Work;
use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A download over a slow line.
const LIMIT: Duration = Duration::from_secs(420);

/// kcat from the distribution's package.
pub fn kcat(work: &Work) -> Result<PathBuf> {
    if found("kcat", "-V") {
        return Ok("kcat".into());
    }
    ensure!(found("apt-get", "--version"), "no kcat on this machine and no apt-get to install it with");
    let log = log(work, "kcat")?;
    logged(Command::new("apt-get").args(["-q", "update"]), &log, LIMIT)?;
    let mut install = Command::new("apt-get");
    install
        .args(["-q", "install", "-y", "--no-install-recommends", "kcat"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    logged(&mut install, &log, LIMIT)?;
    ensure!(found("kcat", "-V"), "apt-get was content but kcat does not start");
    Ok("kcat".into())
}

/// Kafka's jars (clients, tools and broker) as one directory of a class path.
pub fn java_libs(work: &Work) -> Result<PathBuf> {
    ensure!(found("java", "-version"), "no java on this machine");
    ensure!(found("mvn", "--version"), "no mvn on this machine");
    let pom = work.client_sources().join("java/pom.xml");
    let libs = work.cache.join("java/libs");
    once(&pom, &libs, || {
        let mut maven = Command::new("mvn");
        maven.args(["-q", "-B", "-f"]).arg(&pom).arg("dependency:copy-dependencies");
        maven.arg(format!("-DoutputDirectory={}", libs.display()));
        logged(&mut maven, &log(work, "java")?, LIMIT)
    })?;
    Ok(libs)
}

/// A virtual environment with the packages of `requirements`; returns its python.
pub fn python(work: &Work, requirements: &str) -> Result<PathBuf> {
    ensure!(found("python3", "--version"), "no python3 on this machine");
    let list = work.client_sources().join("python").join(requirements);
    let venv = work.cache.join("python").join(requirements.trim_end_matches(".txt"));
    let python = venv.join("bin/python");
    once(&list, &venv, || {
        let log = log(work, requirements)?;
        logged(Command::new("python3").args(["-m", "venv"]).arg(&venv), &log, LIMIT)?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&list);
        logged(&mut pip, &log, LIMIT)
    })?;
    Ok(python)
}

/// A program and its first arguments.
pub type Start = (PathBuf, Vec<OsString>);

/// How `python/<script>` is started, with librdkafka's client.
pub fn librdkafka(work: &Work, script: &str) -> Result<Start> {
    let python = python(work, "confluent.txt")?;
    Ok((python, vec![work.client_sources().join("python").join(script).into()]))
}

/// How `java/<source>` is started, with Kafka's client and these flags of the virtual machine.
pub fn java(work: &Work, source: &str, flags: &[&str]) -> Result<Start> {
    ensure!(found("javac", "-version"), "a java without its compiler on this machine");
    let libs = format!("{}/*", java_libs(work)?.display());
    let small = ["-Xmx256m", "-XX:TieredStopAtLevel=1"];
    let mut args: Vec<OsString> = small.iter().chain(flags).map(Into::into).collect();
    args.extend(["-cp".into(), libs.into(), work.client_sources().join("java").join(source).into()]);
    Ok(("java".into(), args))
}

/// Builds the Go program in `ci/clients/<name>`; returns the binary.
pub fn go(work: &Work, name: &str) -> Result<PathBuf> {
    ensure!(found("go", "version"), "no go on this machine");
    let source = work.client_sources().join(name);
    let binary = work.cache.join(name).join("checks");
    let mut build = Command::new("go");
    build.args(["build", "-buildvcs=false", "-o"]).arg(&binary).arg(".").current_dir(source);
    // Go's own build cache makes this free when nothing changed.
    logged(&mut build, &log(work, name)?, LIMIT)?;
    Ok(binary)
}

/// Node packages of `ci/clients/<name>/package.json`, copied with the program beside them.
pub fn node(work: &Work, name: &str, program: &str) -> Result<PathBuf> {
    ensure!(found("node", "--version"), "no node on this machine");
    ensure!(found("npm", "--version"), "no npm on this machine");
    let source = work.client_sources().join(name);
    let dir = work.cache.join(name);
    once(&source.join("package.json"), &dir, || {
        fs::create_dir_all(&dir)?;
        fs::copy(source.join("package.json"), dir.join("package.json"))?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund"]).current_dir(&dir);
        logged(&mut npm, &log(work, name)?, LIMIT)
    })?;
    // Node resolves packages from beside the program.
    fs::copy(source.join(program), dir.join(program))?;
    Ok(dir.join(program))
}

/// Runs `install` unless `target` was installed from this very `manifest`; a half install is removed.
fn once(manifest: &Path, target: &Path, install: impl FnOnce() -> Result<()>) -> Result<()> {
    let wanted = fs::read(manifest).with_context(|| format!("reading {}", manifest.display()))?;
    let stamp = target.with_extension("stamp");
    if target.exists() && fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    if target.exists() {
        fs::remove_dir_all(target)?;
    }
    install()?;
    Ok(fs::write(stamp, wanted)?)
}

fn log(work: &Work, name: &str) -> Result<PathBuf> {
    work.log(&format!("install-{name}"))
}

/// Whether `program` starts at all.
pub fn found(program: &str, argument: &str) -> bool {
    Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

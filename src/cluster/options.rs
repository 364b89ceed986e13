//! The options of a job over several processes, checked.
//!
//! In: flags, their environment variables, the hostfile, the secret. Out: [`Membership`], which can not be wrong afterwards: this
//! process' index, where each one listens, the secret that proves membership; or `None` for a single process. Failure: options
//! that do not fit together are a usage error, hostfile and secret one of configuration. The secret is never printed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::error::ClusterError;

/// A shorter secret could be guessed by somebody who has seen one proof.
const SECRET_BYTES_MIN: usize = 16;

const SECRET: &str = "FLOODMARK_CLUSTER_SECRET";
const SECRET_FILE: &str = "FLOODMARK_CLUSTER_SECRET_FILE";

/// Options of a job over several processes.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Several processes")]
pub struct ClusterArgs {
    /// Number of processes of the job. Each is started with the same job file, hostfile and flags, and with the same
    /// secret, in FLOODMARK_CLUSTER_SECRET or in the file that FLOODMARK_CLUSTER_SECRET_FILE names. Default: this
    /// process alone
    #[arg(long, value_name = "N", env = "FLOODMARK_PROCESSES", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub processes: Option<u16>,
    /// Index of this process, from 0; `hostname` takes the number at the end of HOSTNAME, as in a StatefulSet's
    /// `floodmark-2`
    #[arg(long, value_name = "I", env = "FLOODMARK_PROCESS_INDEX")]
    pub process_index: Option<String>,
    /// File that says where the processes listen: one line `host:port` for each, in the order of their indices; `#`
    /// begins a comment. Traffic between the processes is not encrypted: keep it in a private network
    #[arg(long, value_name = "FILE", env = "FLOODMARK_HOSTFILE")]
    pub hostfile: Option<PathBuf>,
    /// How long to wait for the other processes before giving up with exit code 75
    #[arg(long, value_name = "SECONDS", env = "FLOODMARK_WAIT_SECONDS", default_value_t = 300)]
    pub wait_seconds: u32,
}

/// This process' place among those of the job.
#[derive(Clone, Debug)]
pub struct Membership {
    /// Its index.
    pub index: usize,
    /// Where each listens, `host:port`.
    pub hosts: Vec<String>,
    /// What proves membership.
    pub secret: Secret,
    /// How long to wait for the others.
    pub wait: Duration,
}

impl Membership {
    /// A process as messages name it.
    pub(super) fn name_of(&self, index: usize) -> String {
        format!("process {index} at {}", self.hosts[index])
    }
}

/// What only members know. Never printed.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// # Errors
    /// It is too short.
    pub fn new(text: &str) -> Result<Secret, ClusterError> {
        let bytes = text.trim().as_bytes();
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(ClusterError::Invalid(format!(
                "the cluster's secret has {} bytes, expected at least {SECRET_BYTES_MIN}; create one with `openssl \
                 rand -hex 32`",
                bytes.len()
            )));
        }
        Ok(Secret(bytes.to_vec()))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl ClusterArgs {
    /// The place among several; `None` where this process is the only one.
    ///
    /// # Errors
    /// [`ClusterError::Usage`] for options that do not fit together, [`ClusterError::Invalid`] for hostfile and secret.
    pub fn membership(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Membership>, ClusterError> {
        let usage = |what: String| Err(ClusterError::Usage(what));
        let Some(processes) = self.processes.map(usize::from) else {
            return match (&self.process_index, &self.hostfile) {
                (None, None) => Ok(None),
                _ => usage(
                    "--process-index and --hostfile are for several processes: give their number with --processes"
                        .to_owned(),
                ),
            };
        };
        let index = match &self.process_index {
            Some(text) => index(text, processes, env)?,
            None if processes == 1 => 0,
            None => {
                return usage(format!("--processes {processes} needs --process-index, from 0 to {}", processes - 1));
            }
        };
        if processes == 1 {
            return Ok(None);
        }
        let Some(hostfile) = &self.hostfile else {
            return usage(format!(
                "--processes {processes} needs --hostfile, with a line `host:port` for each process"
            ));
        };
        let text = std::fs::read_to_string(hostfile)
            .map_err(|error| ClusterError::Invalid(format!("--hostfile {}: {error}", hostfile.display())))?;
        let hosts = hosts(&text, hostfile, processes)?;
        let wait = Duration::from_secs(u64::from(self.wait_seconds));
        Ok(Some(Membership { index, hosts, secret: secret(env)?, wait }))
    }
}

fn index(text: &str, processes: usize, env: &dyn Fn(&str) -> Option<String>) -> Result<usize, ClusterError> {
    let last = processes - 1;
    let found = if text == "hostname" {
        let name = env("HOSTNAME").unwrap_or_default();
        let ordinal = name.rsplit_once('-').and_then(|(_, ordinal)| ordinal.parse().ok());
        ordinal.ok_or_else(|| {
            ClusterError::Usage(format!(
                "--process-index hostname: found HOSTNAME={name:?}, expected a name that ends with a number, such as \
                 floodmark-0"
            ))
        })?
    } else {
        text.parse().map_err(|_| {
            ClusterError::Usage(format!(
                "--process-index: found {text:?}, expected a number from 0 to {last}, or hostname"
            ))
        })?
    };
    if found > last {
        return Err(ClusterError::Usage(format!(
            "--process-index: found {found}, expected 0 to {last}, as --processes is {processes}"
        )));
    }
    Ok(found)
}

fn hosts(text: &str, file: &Path, processes: usize) -> Result<Vec<String>, ClusterError> {
    let mut hosts: Vec<String> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let fault = |expected: &str| {
            let place = format!("{}:{}", file.display(), number + 1);
            Err(ClusterError::Invalid(format!("{place}: found {line:?}, expected {expected}")))
        };
        let legal = |host: &str| {
            !host.is_empty() && !host.contains(char::is_whitespace) && (!host.contains(':') || host.ends_with(']'))
        };
        match line.rsplit_once(':') {
            Some((host, port)) if legal(host) && port.parse().is_ok_and(|port: u16| port > 0) => {}
            _ => return fault("host:port, such as worker-0.example:7001 or [::1]:7001"),
        }
        if hosts.iter().any(|host| host == line) {
            return fault("each host:port once");
        }
        hosts.push(line.to_owned());
    }
    if hosts.len() < processes {
        return Err(ClusterError::Invalid(format!(
            "{}: found {} lines with host:port, expected at least {processes}: one for each process (--processes \
             {processes})",
            file.display(),
            hosts.len()
        )));
    }
    hosts.truncate(processes);
    Ok(hosts)
}

fn secret(env: &dyn Fn(&str) -> Option<String>) -> Result<Secret, ClusterError> {
    let set = |name| env(name).filter(|value| !value.is_empty());
    match (set(SECRET), set(SECRET_FILE)) {
        (Some(text), None) => Secret::new(&text),
        (None, Some(file)) => {
            let text = std::fs::read_to_string(&file);
            Secret::new(&text.map_err(|error| ClusterError::Invalid(format!("{SECRET_FILE}={file}: {error}")))?)
        }
        (found, _) => Err(ClusterError::Invalid(format!(
            "found {} of {SECRET} and {SECRET_FILE}, expected one of them: with this secret the processes prove to \
             each other that they belong together",
            if found.is_some() { "both" } else { "neither" }
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Exit, HasExit};

    fn args(processes: Option<u16>, index: Option<&str>, hostfile: Option<&Path>) -> ClusterArgs {
        ClusterArgs {
            processes,
            process_index: index.map(str::to_owned),
            hostfile: hostfile.map(Path::to_owned),
            wait_seconds: 1,
        }
    }

    fn env(name: &str) -> Option<String> {
        match name {
            "HOSTNAME" => Some("floodmark-live-2".to_owned()),
            SECRET => Some("0123456789abcdef0123\n".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn one_process_needs_nothing() {
        for args in [args(None, None, None), args(Some(1), None, None), args(Some(1), Some("0"), None)] {
            assert!(args.membership(&|_| None).expect("right").is_none());
        }
    }

    #[test]
    fn options_that_do_not_fit_are_usage_errors() {
        for (args, says) in [
            (args(None, Some("0"), None), "--processes"),
            (args(Some(3), None, None), "needs --process-index, from 0 to 2"),
            (args(Some(3), Some("3"), None), "found 3, expected 0 to 2"),
            (args(Some(3), Some("x"), None), "found \"x\", expected a number from 0 to 2"),
            (args(Some(2), Some("hostname"), None), "found 2, expected 0 to 1"),
            (args(Some(3), Some("hostname"), None), "needs --hostfile"),
        ] {
            let error = args.membership(&env).expect_err(says);
            assert_eq!(error.exit(), Exit::Usage, "{error}");
            assert!(error.to_string().contains(says), "{error}");
        }
        let error = args(Some(2), Some("hostname"), None).membership(&|_| None).expect_err("no name");
        assert!(error.to_string().contains("HOSTNAME=\"\""), "{error}");
    }

    #[test]
    fn a_hostfile_names_each_process() {
        let text = "# the cluster\na.example:7000\n\n[::1]:7001 # the second\n10.0.0.3:7002\nspare:1\n";
        let found = hosts(text, Path::new("hosts"), 3).expect("right");
        assert_eq!(found, ["a.example:7000", "[::1]:7001", "10.0.0.3:7002"]);
        for (text, says) in [
            ("a:1\nb\n", "hosts:2: found \"b\", expected host:port"),
            ("a:1\nb:0\n", "hosts:2: found \"b:0\""),
            ("a:1\n::1:70\n", "hosts:2: found \"::1:70\""),
            ("a:1 b:2\n", "hosts:1: found \"a:1 b:2\""),
            ("a:1\n#\na:1\n", "hosts:3: found \"a:1\", expected each host:port once"),
            ("a:1\n", "hosts: found 1 lines with host:port, expected at least 2"),
        ] {
            let error = hosts(text, Path::new("hosts"), 2).expect_err(says);
            assert_eq!(error.exit(), Exit::Configuration);
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn the_secret_comes_from_one_place_and_is_never_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("secret");
        std::fs::write(&file, "fedcba9876543210\n").expect("written");
        let path = file.display().to_string();
        let from_file = |name: &str| (name == SECRET_FILE).then(|| path.clone());
        assert_eq!(secret(&from_file).expect("right").bytes(), b"fedcba9876543210");
        assert_eq!(format!("{:?}", secret(&env).expect("right")), "***");
        let both = |name: &str| env(name).or_else(|| from_file(name));
        for (error, says) in [
            (secret(&|_| None).expect_err("none"), "found neither"),
            (secret(&both).expect_err("both"), "found both"),
            (secret(&|name| (name == SECRET).then(|| "short".to_owned())).expect_err("short"), "has 5 bytes"),
            (secret(&|name| (name == SECRET_FILE).then(|| "/no/such".to_owned())).expect_err("no file"), "/no/such"),
        ] {
            assert_eq!(error.exit(), Exit::Configuration);
            assert!(error.to_string().contains(says) && !error.to_string().contains("short"), "{error}");
        }
    }
}

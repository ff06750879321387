//! Commands about the audit log. They read its files; no daemon is needed.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use jarvis_audit::{End, PublicIdentity, Report, verify};

use super::exit::{Code, Failure};

#[derive(Subcommand)]
pub(super) enum Audit {
    /// Check every record: form, sequence, chain, certificates, signatures
    Verify(Verify),
}

#[derive(Args)]
pub(super) struct Verify {
    /// Directory made by `init`; names the log and the identity when they are not given
    #[arg(
        long,
        env = "JARVIS_DIR",
        value_name = "DIR",
        default_value = "/var/lib/jarvis"
    )]
    dir: PathBuf,
    /// Directory of the log (default: DIR/audit)
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,
    /// Public key of the host, best a copy kept elsewhere (default: DIR/identity.pub)
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
}

impl Audit {
    pub(super) fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Verify(verify) => verify.run(),
        }
    }
}

impl Verify {
    fn run(&self) -> Result<(), Failure> {
        let log = self.log.clone().unwrap_or_else(|| self.dir.join("audit"));
        let identity = self.identity.clone();
        let identity = identity.unwrap_or_else(|| self.dir.join("identity.pub"));
        let identity = PublicIdentity::open(&identity).map_err(Failure::other)?;
        let report = verify(&log, &identity)
            .map_err(|failure| Failure::new(Code::Integrity, failure.to_string()))?;
        let text = describe(&report, &identity);
        io::stdout()
            .write_all(text.as_bytes())
            .map_err(Failure::other)
    }
}

fn describe(report: &Report, identity: &PublicIdentity) -> String {
    let mut text = format!(
        "host      {} (identity {})\n\
         records   {} in {} segment(s), {} to {}\n\
         starts    {}, {} of them after an unclean end\n\
         head      {}\n",
        identity.host(),
        identity.fingerprint(),
        report.records,
        report.segments,
        report.first_time,
        report.last_time,
        report.starts,
        report.unclean_starts,
        report.head,
    );
    for ((action, result), count) in &report.counts {
        text.push_str(&format!("  {action} {result}: {count}\n"));
    }
    text.push_str(match report.end {
        End::Stopped => "end       the daemon stopped in order\n",
        End::Open => "end       no stop record: the daemon runs, or it died\n",
    });
    text.push_str(
        "checked   form, sequence, chain, host, certificates and signatures of every record: all good\n\
         not shown by the log alone: whether records after the head were cut off; compare the head\n\
         with one noted elsewhere\n",
    );
    text
}

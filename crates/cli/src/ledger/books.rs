//! `farthing ledger`: the ledger as a whole, checked, copied and exported

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use ::ledger::Ledger;
use clap::{Args, Subcommand};
use serde_json::json;

use super::LedgerArguments;
use crate::terminal::{put, several, unwritten};
use crate::{Failure, Outcome};

/// Check the ledger, back it up, export it
///
/// All of these can run while servers use the ledger.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  farthing ledger check
  farthing ledger backup ledger-2026-11-29.db
  farthing ledger export ledger.jsonl
  farthing ledger export | grep '\"table\":\"usage\"'")]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    pub ledger: LedgerArguments,
}

#[derive(Subcommand)]
enum What {
    /// Check that balances, totals and costs agree; exit code 1 where one does not
    Check,
    /// Copy the ledger to a new file, which is a ledger itself
    Backup(Backup),
    /// Write every row as a line of JSON, without secrets and their hashes
    Export(Export),
}

#[derive(Args)]
struct Backup {
    /// The new file
    file: PathBuf,
}

#[derive(Args)]
struct Export {
    /// The new file [default: stdout]
    file: Option<PathBuf>,
}

pub fn run(a: Arguments) -> Outcome {
    let arguments = &a.ledger;
    match &a.what {
        What::Check => arguments.open(async |ledger: &Ledger| check(ledger, arguments).await),
        What::Backup(backup) => arguments.open(async |ledger: &Ledger| {
            ledger.backup(&backup.file).await?;
            let file = backup.file.display().to_string();
            arguments.report(&json!({ "file": file }), &format!("the copy is {file}"))
        }),
        What::Export(export) => arguments.open(async |ledger: &Ledger| match &export.file {
            Some(file) => export_file(ledger, file, arguments).await,
            None => {
                let written = write_rows(ledger, &mut BufWriter::new(io::stdout())).await?;
                written.map(drop).map_err(unwritten)
            }
        }),
    }
}

async fn check(ledger: &Ledger, arguments: &LedgerArguments) -> Outcome {
    let findings = ledger.check().await?;
    if arguments.json {
        put(&format!("{}\n", json!({ "findings": findings })))?;
    } else {
        put(&findings.iter().map(|finding| format!("{finding}\n")).collect::<String>())?;
    }
    if findings.is_empty() {
        arguments.note("everything agrees");
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{} in the ledger; docs/LEDGER.md says what to do",
        several(findings.len(), "disagreement")
    )))
}

/// Writes a new file, which is whole or not there.
async fn export_file(ledger: &Ledger, file: &Path, arguments: &LedgerArguments) -> Outcome {
    let failed = |error: io::Error| Failure::failed(format!("{}: {error}; give another file", file.display()));
    if file.symlink_metadata().is_ok() {
        return Err(Failure::failed(format!("{}: it exists; give a new file", file.display())));
    }
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = tempfile::Builder::new().prefix(".farthing-export-").tempfile_in(directory).map_err(failed)?;
    let mut out = BufWriter::new(temporary);
    let rows = write_rows(ledger, &mut out).await?.map_err(failed)?;
    let temporary = out.into_inner().map_err(|error| failed(error.into_error()))?;
    temporary.as_file().sync_all().map_err(failed)?;
    temporary.persist_noclobber(file).map_err(|error| failed(error.error))?;
    let object = json!({"file": file.display().to_string(), "rows": rows});
    arguments.report(&object, &format!("{}: {}", file.display(), several(rows, "row")))
}

/// Writes all rows, and counts them. The inner error is the output's.
async fn write_rows(ledger: &Ledger, out: &mut (dyn Write + Send)) -> Result<io::Result<usize>, Failure> {
    let (mut rows, mut broken) = (0, None);
    let exported = ledger
        .export(&mut |row| {
            rows += 1;
            writeln!(out, "{row}").map_err(|error| {
                let kind = error.kind();
                broken = Some(error);
                kind.into()
            })
        })
        .await;
    if let Some(error) = broken {
        return Ok(Err(error));
    }
    exported?;
    Ok(out.flush().map(|()| rows))
}

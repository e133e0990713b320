//! What is known of a batch.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Whose API it came by, and so the form of its results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Results and errors are files of their own.
    OpenAi,
    /// All results are together, with the batch.
    Anthropic,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Its lines are looked at.
    Validating,
    /// Its lines are answered.
    InProgress,
    /// Its results are put together.
    Finalizing,
    /// It is to stop.
    Cancelling,
    /// All lines have a result.
    Completed,
    /// Its lines are no requests, or its key may not ask.
    Failed,
    /// Its time was over before all lines were answered.
    Expired,
    /// It was stopped.
    Cancelled,
}

impl Status {
    /// Whether nothing will change any more.
    pub fn ended(self) -> bool {
        matches!(self, Status::Completed | Status::Failed | Status::Expired | Status::Cancelled)
    }

    /// Its name in OpenAI's API.
    pub fn word(self) -> &'static str {
        match self {
            Status::Validating => "validating",
            Status::InProgress => "in_progress",
            Status::Finalizing => "finalizing",
            Status::Cancelling => "cancelling",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Expired => "expired",
            Status::Cancelled => "cancelled",
        }
    }
}

/// What is wrong with a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchError {
    /// A word for programs.
    pub code: String,
    /// A line for people.
    pub message: String,
    /// Field of the line.
    pub param: Option<String>,
    /// Number of the line, from 1.
    pub line: Option<usize>,
}

/// Lines by what came of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All lines.
    pub total: usize,
    /// Answered.
    pub completed: usize,
    /// Answered with an error.
    pub failed: usize,
    /// Left when the time was over.
    pub expired: usize,
    /// Left when it was stopped.
    pub cancelled: usize,
}

/// A batch. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub owner: String,
    /// Id of the ledger's key that made it, where there is a ledger.
    pub key: Option<String>,
    /// Whose API it came by.
    pub form: Form,
    /// Path of the API that answers its lines.
    pub endpoint: String,
    /// Id of the file with its lines; empty where they came with the request.
    pub input_file: String,
    /// How long it may take, as the client said it.
    pub window: String,
    /// What the client wants to remember.
    pub metadata: BTreeMap<String, String>,
    /// Id of the file of its answers, which is there when it has ended and some line was answered.
    pub output_file: String,
    /// Id of the file of its errors, likewise.
    pub error_file: String,
    /// For how long these are kept, in seconds.
    pub output_seconds: u64,
    /// How far it is.
    pub status: Status,
    /// Why it failed.
    pub errors: Vec<BatchError>,
    /// What came of its lines.
    pub counts: Counts,
    /// Place in the order in which files and batches came, which the store gives.
    pub serial: u64,
    /// When it was made.
    pub created_at: u64,
    /// When its time is over.
    pub expires_at: u64,
    /// When its lines were found to be requests.
    pub in_progress_at: Option<u64>,
    /// When its results were put together.
    pub finalizing_at: Option<u64>,
    /// When it was told to stop.
    pub cancelling_at: Option<u64>,
    /// When it ended.
    pub ended_at: Option<u64>,
}

/// Where a batch's lines come from.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A file of the owner's.
    File,
    /// These lines.
    Lines(&'a [u8]),
}

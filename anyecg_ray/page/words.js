// What the server's codes mean to somebody who reads ECGs and no programs.

export const FLAGS = {
  non_finite: "samples are missing",
  flat: "no signal (an electrode may be off)",
  clipped: "the signal is cut off at its top or bottom",
  amplitude: "too small or too large for a heart",
  noisy: "no heart beats to be seen above the noise",
  uncalibrated: "The file does not say how many millivolts a sample is: the strip’s height is arbitrary. The estimates do not depend on it.",
};

export const STATUSES = {
  non_finite: "samples are missing in every window",
  flat: "a lead that the model reads has no signal in any window; an electrode may be off",
  clipped: "the signal is cut off at its top or bottom in every window",
  amplitude: "the signal is too small or too large for a heart in every window",
  noisy: "no window shows heart beats above its noise",
};

const RECORD = "Choose the .hea file together with every signal file that belongs to it, all at once.";
const CSV = "A CSV begins with a line of lead names, such as I,II,V1, and has a line of numbers for each sample.";

// code: [what is wrong, what to do]; `again` where the same may work later
const PROBLEMS = {
  wrong_key: ["This server does not know that key.", "Check that it was copied as a whole, or ask whoever runs this server."],
  revoked_key: ["That key has been withdrawn.", "Ask whoever runs this server for another."],
  unreachable: ["The server does not answer.", "Check the connection, then try again.", "again"],
  overloaded: ["The server has more to do than it takes on.", "Nothing was lost: try again in a moment.", "again"],
  ending: ["The server is being stopped or restarted.", "Nothing was lost: try again in a moment.", "again"],
  too_many_requests: ["This key has sent more ECGs than it may in a short time.", "Try again in a moment.", "again"],
  internal: ["The server failed. That is a fault in the software, not in your ECG.", "Try again; if it stays, tell whoever runs this server.", "again"],
  slow_body: ["The file took too long to arrive.", "Check the connection, then try again.", "again"],
  cut_body: ["The file did not arrive as a whole.", "Try again.", "again"],
  folder: ["That is a folder.", "Open it and drop the files in it instead."],
  no_header: ["There is no .hea file among these files.", `The .hea file tells how the others are to be read. ${RECORD}`],
  missing_signal: ["A signal file of this record is missing.", RECORD],
  several_records: ["These files are more than one recording.", "Open one at a time: one .hea with its signal files, or one .csv."],
  unreadable: ["This file is not an ECG that can be read here.", "It may be damaged, or of another kind. Export it again as WFDB or CSV."],
  truncated: ["The signal file ends too early.", "It may have been copied in part. Copy it again, as a whole."],
  missing_lead: ["A lead that the model reads is not in this recording.", "Open a recording that has it, or choose another model."],
  too_short: ["This recording is too short.", "Open one that is at least as long as the model’s window: usually ten seconds."],
  sampling_rate: ["At this sampling rate the ECG cannot be read.", "If you typed the rate, check it: it is between 80 and 20000 samples per second."],
  not_csv: ["This file cannot be read as a table of numbers.", CSV],
  no_lead_names: ["The first line of the CSV has no lead names.", CSV],
  lead_twice: ["A lead is in this file twice.", "Leave one of the two out."],
  not_finite: ["A sample is not a number.", "Leave the cell of a missing sample empty."],
  unknown_units: ["The unit of the samples is not known here.", "Choose V, mV, µV or nV."],
  too_large: ["This file is larger than the server reads.", "Open a shorter piece of the recording."],
  too_long: ["This recording is longer than the server reads.", "Open a shorter piece. If you typed the sampling rate, check it."],
  too_many_samples: ["This recording has more samples than the server reads.", "Open a shorter piece, or fewer leads."],
  no_such_model: ["That model is no longer on this server.", "Reload the page to see those that are."],
  page: ["This page failed. That is a fault in the software, not in your ECG.", "Reload the page and try again."],
};

const NOT_OURS = ["What came back is no answer of this server’s own.", "Something on the way, or a part of it that was busy, answered in its place. Try again.", "again"];

// problem: RFC 9457 with a code, or http_STATUS for an answer that is none of ours; wait: seconds, from Retry-After. Returns {what, mend, retry, asks}, asks: for a key.
export function told(problem, wait) {
  const asks = ["no_key", "wrong_key", "revoked_key"].includes(problem.code);
  const unknown = problem.status >= 500 ? PROBLEMS.internal : ["The server could not use this ECG.", ""];
  const [what, mend, again] = problem.code.startsWith("http_") ? NOT_OURS : (PROBLEMS[problem.code] ?? unknown);
  return { what, mend: wait ? `${mend} The server asks to wait ${wait} s.` : mend, retry: Boolean(again), asks };
}

//! The incremental parser.

use super::arguments::{Arguments, Kind, ToolTypes, escaped, value};

const THINK: &str = "<think>";
const THINK_END: &str = "</think>";
const CALL: &str = "<tool_call>";
const CALL_END: &str = "</tool_call>";
const KEY: &str = "<arg_key>";
const KEY_END: &str = "</arg_key>";
const VALUE: &str = "<arg_value>";
const VALUE_END: &str = "</arg_value>";

/// What is split off.
#[derive(Debug, Clone, Default)]
pub(in crate::gateway) struct SpeechRules {
    /// Reasoning, where it stands.
    pub(in crate::gateway) reasoning: bool,
    /// The prompt has opened the reasoning already, so the answer begins inside it.
    pub(in crate::gateway) starts_in_reasoning: bool,
    /// Tool calls; `None` leaves them in the content.
    pub(in crate::gateway) tools: Option<ToolTypes>,
}

/// A part of what is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::gateway) enum Piece {
    /// More reasoning.
    Reasoning(String),
    /// More content.
    Content(String),
    /// A call of this tool begins.
    Call {
        /// Counts from 0.
        index: usize,
        /// The tool.
        name: String,
    },
    /// More of its arguments: JSON.
    Arguments {
        /// Which call.
        index: usize,
        /// The next part of the object's text.
        json: String,
    },
}

/// Where in the grammar.
///
/// ```text
///  Start ─▶ Reasoning ─▶ Content ◀─▶ Name ─▶ Members ◀─▶ Key ─▶ Colon ─▶ Value
/// ```
#[derive(Debug)]
enum State {
    /// Nothing has been said.
    Start,
    Reasoning,
    Content,
    Name,
    /// Between the arguments of a call.
    Members(Call),
    Key(Call),
    /// Between a key and its value.
    Colon(Call, String),
    Value(Call, Kind),
}

#[derive(Debug)]
struct Call {
    name: String,
    arguments: Arguments,
}

/// One answer as it is spoken.
#[derive(Debug)]
pub(in crate::gateway) struct Speech {
    rules: SpeechRules,
    state: State,
    /// Said, and not yet decided on: shorter than a marker, but for a name, a key or a value that is not a text.
    held: String,
    /// Whether the present reasoning or content has begun; line ends before that are dropped.
    begun: bool,
    calls: usize,
}

/// What the held text shows of a set of markers.
enum Found {
    /// The first of them, after so many bytes.
    Marker { which: usize, at: usize, end: usize },
    /// None; so many bytes are certain not to begin one.
    None { certain: usize },
}

impl Speech {
    /// An answer of which nothing has been said.
    pub(in crate::gateway) fn new(rules: SpeechRules) -> Self {
        let state = match (rules.reasoning, rules.starts_in_reasoning) {
            (true, true) => State::Reasoning,
            (true, false) => State::Start,
            (false, _) => State::Content,
        };
        Self { rules, state, held: String::new(), begun: false, calls: 0 }
    }

    /// How many tool calls have begun.
    pub(in crate::gateway) fn calls(&self) -> usize {
        self.calls
    }

    /// Takes the next part of the text.
    pub(in crate::gateway) fn push(&mut self, part: &str, out: &mut Vec<Piece>) {
        self.held.push_str(part);
        while self.advance(out) {}
    }

    /// Nothing follows: what was held back is said as what it would have been.
    pub(in crate::gateway) fn finish(&mut self, out: &mut Vec<Piece>) {
        let held = std::mem::take(&mut self.held);
        match &self.state {
            State::Start | State::Content => say(out, Piece::Content(held)),
            State::Reasoning => say(out, Piece::Reasoning(held)),
            State::Name => say(out, Piece::Content(format!("{CALL}{held}"))),
            State::Value(_, Kind::Text) => say(out, Piece::Arguments { index: self.calls - 1, json: escaped(&held) }),
            // A call that is cut off is left open, as its client sees by the finish reason.
            State::Members(_) | State::Key(_) | State::Colon(..) | State::Value(..) => {}
        }
    }

    /// One move; whether there may be another.
    fn advance(&mut self, out: &mut Vec<Piece>) -> bool {
        match std::mem::replace(&mut self.state, State::Content) {
            State::Start => self.start(),
            State::Reasoning => self.text(out, true),
            State::Content => self.text(out, false),
            State::Name => self.name(out),
            State::Members(call) => self.members(call, out),
            State::Key(call) => self.key(call),
            State::Colon(call, key) => self.colon(call, key, out),
            State::Value(call, kind) => self.value(call, kind, out),
        }
    }

    fn start(&mut self) -> bool {
        let said = self.held.trim_start();
        if said.len() < THINK.len() && THINK.starts_with(said) {
            self.state = State::Start;
            return false;
        }
        if said.starts_with(THINK) {
            let at = self.held.len() - said.len() + THINK.len();
            self.held.drain(..at);
            self.state = State::Reasoning;
        }
        true
    }

    /// Reasoning or content, up to the marker that ends it. Line ends at its edges are the template's, not the text's.
    fn text(&mut self, out: &mut Vec<Piece>, reasoning: bool) -> bool {
        if !self.begun && (reasoning || self.rules.reasoning || self.calls > 0) {
            let blank = self.held.len() - self.held.trim_start_matches('\n').len();
            self.held.drain(..blank);
        }
        let piece = |text: &str| {
            let text = text.to_owned();
            if reasoning { Piece::Reasoning(text) } else { Piece::Content(text) }
        };
        let end = if reasoning { THINK_END } else { CALL };
        let sought = reasoning || self.rules.tools.is_some();
        match if sought { find(&self.held, &[end]) } else { Found::None { certain: self.held.len() } } {
            Found::Marker { at, end, .. } => {
                say(out, piece(self.held[..at].trim_end_matches('\n')));
                self.held.drain(..end);
                self.begun = false;
                self.state = if reasoning { State::Content } else { State::Name };
                true
            }
            Found::None { certain } => {
                let certain = if sought { self.held[..certain].trim_end_matches('\n').len() } else { certain };
                say(out, piece(&self.held[..certain]));
                self.begun |= certain > 0;
                self.held.drain(..certain);
                self.state = if reasoning { State::Reasoning } else { State::Content };
                false
            }
        }
    }

    fn name(&mut self, out: &mut Vec<Piece>) -> bool {
        // The name may be on a line of its own; a line end before it is not its end.
        let blank = self.held.len() - self.held.trim_start().len();
        let Found::Marker { which, at, end } = find(&self.held[blank..], &["\n", KEY, CALL_END]) else {
            self.state = State::Name;
            return false;
        };
        let name = self.held[blank..blank + at].trim().to_owned();
        if name.is_empty() {
            // No call at all: the marker was content.
            say(out, Piece::Content(CALL.to_owned()));
            self.begun = true;
            return true;
        }
        self.held.drain(..if which == 0 { blank + end } else { blank + at });
        say(out, Piece::Call { index: self.calls, name: name.clone() });
        self.calls += 1;
        self.state = State::Members(Call { name, arguments: Arguments::default() });
        true
    }

    fn members(&mut self, call: Call, out: &mut Vec<Piece>) -> bool {
        match find(&self.held, &[KEY, CALL_END]) {
            Found::Marker { which: 0, end, .. } => {
                self.held.drain(..end);
                self.state = State::Key(call);
                true
            }
            Found::Marker { end, .. } => {
                self.held.drain(..end);
                self.argue(out, |json| call.arguments.end(json));
                self.begun = false;
                true
            }
            Found::None { certain } => {
                // What stands between the arguments belongs to nothing.
                self.held.drain(..certain);
                self.state = State::Members(call);
                false
            }
        }
    }

    fn key(&mut self, call: Call) -> bool {
        let Found::Marker { at, end, .. } = find(&self.held, &[KEY_END]) else {
            self.state = State::Key(call);
            return false;
        };
        let key = self.held[..at].trim().to_owned();
        self.held.drain(..end);
        self.state = State::Colon(call, key);
        true
    }

    fn colon(&mut self, mut call: Call, key: String, out: &mut Vec<Piece>) -> bool {
        match find(&self.held, &[VALUE, CALL_END]) {
            Found::Marker { which: 0, end, .. } => {
                self.held.drain(..end);
                let kind = self.rules.tools.as_ref().map_or(Kind::Unknown, |tools| tools.kind(&call.name, &key));
                self.argue(out, |json| {
                    call.arguments.key(&key, json);
                    if kind == Kind::Text {
                        json.push('"');
                    }
                });
                self.state = State::Value(call, kind);
                true
            }
            // A key without a value is no argument.
            Found::Marker { at, .. } => {
                self.held.drain(..at);
                self.state = State::Members(call);
                true
            }
            Found::None { certain } => {
                self.held.drain(..certain);
                self.state = State::Colon(call, key);
                false
            }
        }
    }

    fn value(&mut self, call: Call, kind: Kind, out: &mut Vec<Piece>) -> bool {
        match (find(&self.held, &[VALUE_END]), kind) {
            (Found::Marker { at, end, .. }, _) => {
                let spoken = self.held[..at].to_owned();
                self.held.drain(..end);
                self.argue(out, |json| match kind {
                    Kind::Text => *json = escaped(&spoken) + "\"",
                    Kind::Json | Kind::Unknown => *json = value(&spoken),
                });
                self.state = State::Members(call);
                true
            }
            (Found::None { certain }, Kind::Text) => {
                let spoken: String = self.held.drain(..certain).collect();
                self.argue(out, |json| *json = escaped(&spoken));
                self.state = State::Value(call, kind);
                false
            }
            (Found::None { .. }, _) => {
                self.state = State::Value(call, kind);
                false
            }
        }
    }

    fn argue(&self, out: &mut Vec<Piece>, write: impl FnOnce(&mut String)) {
        let mut json = String::new();
        write(&mut json);
        say(out, Piece::Arguments { index: self.calls - 1, json });
    }
}

/// Appends a piece; to the last one, where it goes on with that.
fn say(out: &mut Vec<Piece>, piece: Piece) {
    match (out.last_mut(), piece) {
        (Some(Piece::Reasoning(so_far)), Piece::Reasoning(more)) => so_far.push_str(&more),
        (Some(Piece::Content(so_far)), Piece::Content(more)) => so_far.push_str(&more),
        (Some(Piece::Arguments { index, json }), Piece::Arguments { index: of, json: more }) if *index == of => {
            json.push_str(&more);
        }
        (_, Piece::Reasoning(text) | Piece::Content(text) | Piece::Arguments { json: text, .. }) if text.is_empty() => {
        }
        (_, piece) => out.push(piece),
    }
}

/// The first of `markers` in `text`, or how much of it cannot be the beginning of one.
fn find(text: &str, markers: &[&str]) -> Found {
    let found = markers.iter().enumerate().filter_map(|(which, marker)| Some((text.find(marker)?, which)));
    if let Some((at, which)) = found.min() {
        return Found::Marker { which, at, end: at + markers[which].len() };
    }
    let begins = |at: usize| markers.iter().any(|marker| marker.starts_with(&text[at..]));
    let certain = text.char_indices().map(|(at, _)| at).find(|at| begins(*at)).unwrap_or(text.len());
    Found::None { certain }
}

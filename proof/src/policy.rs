//! Trust policies (C2SP tlog-policy): which logs and witnesses a reader believes, and how many of them.
//!
//! | line | meaning |
//! |---|---|
//! | `log <vkey> [<url>]` | a key (type 01) that may sign checkpoints of the origin that names it |
//! | `witness <name> <vkey> [<url>]` | a cosigner's key (type 04) |
//! | `group <name> all\|any\|<k> <member>...` | met when so many of its members are met |
//! | `quorum <name>` or `quorum none` | what must be met; exactly one such line |
//!
//! Lines end in a line feed; spaces and tabs separate words; empty lines and lines that start with `#` are
//! skipped. Members and the quorum are named by earlier lines only, and a name is a member at most once, so
//! the groups form trees and one pass in the order of the lines evaluates them. Stricter than the
//! specification: the text is UTF-8, at most [`MAX_POLICY_BYTES`] and [`MAX_POLICY_LINES`] long, and no
//! public key occurs twice, be it as a log's and a witness's key: keys are distinct by use.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::checkpoint::{Checkpoint, CheckpointError, Origin, parse_decimal};
use crate::key::{KeyError, KeyId, KeyKind, KeyName, VerifierKey};
use crate::note::{Note, NoteError, VerifyError};
use crate::number::UnixSeconds;

/// The largest policy that is read or written, in bytes.
pub const MAX_POLICY_BYTES: usize = 1 << 20;

/// The most lines that a policy may have, comments and empty lines included.
pub const MAX_POLICY_LINES: usize = 1024;

/// The name of the quorum that asks for no witness; nothing else may have it.
const NONE: &str = "none";

/// When each key cosigned.
type Times = BTreeMap<(KeyName, KeyId), UnixSeconds>;

/// Whom a reader believes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    logs: Vec<PolicyLog>,
    /// Witnesses and groups in the order of their lines: members come before their groups.
    nodes: Vec<Node>,
    /// Which node must be met; `None` asks for no witness.
    quorum: Option<usize>,
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    ///
    /// [`PolicyTextError`] says what is wrong, and on which line.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyTextError> {
        let text = check_text(bytes)?;
        let mut builder = PolicyBuilder::default();
        for (position, line) in text.split_terminator('\n').enumerate() {
            let words: Vec<&str> = line.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
            builder.line(&words).map_err(|source| PolicyTextError::Line { line: position + 1, source })?;
        }
        builder.finish().map_err(PolicyTextError::Whole)
    }

    /// The log keys, in the order of their lines.
    pub fn logs(&self) -> &[PolicyLog] {
        &self.logs
    }

    /// The witnesses, in the order of their lines.
    pub fn witnesses(&self) -> impl Iterator<Item = &PolicyWitness> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Witness(witness) => Some(&**witness),
            Node::Group(_) => None,
        })
    }

    /// The name of the witness or group that must be met, or `None` if no witness is asked for.
    pub fn quorum(&self) -> Option<&str> {
        self.quorum.map(|node| self.nodes[node].name())
    }

    /// Reads a signed checkpoint and believes it only if a log key of its own origin has signed it, every
    /// signature by a key of this policy holds, and the witnesses who cosigned it meet the quorum.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] says which of these fails.
    pub fn verify_checkpoint(&self, note: &[u8]) -> Result<VerifiedCheckpoint, PolicyError> {
        let (checkpoint, log_keys, times) = self.verify_signatures(note)?;
        let cosignatures = self.check_quorum(&times)?;
        Ok(VerifiedCheckpoint { checkpoint, log_keys, cosignatures })
    }

    /// As [`Policy::verify_checkpoint`], but whether the witnesses who cosigned meet the quorum is not asked. For
    /// whoever holds checkpoints of several nodes and knows that each of their trees extends the same one: what one
    /// checkpoint lacks, [`Policy::is_met_by`] may find in all of them together.
    ///
    /// # Errors
    ///
    /// [`PolicyError`], but never [`PolicyError::QuorumNotMet`].
    pub fn read_checkpoint(&self, note: &[u8]) -> Result<CosignedCheckpoint, PolicyError> {
        let (checkpoint, _, times) = self.verify_signatures(note)?;
        let cosigned =
            self.witnesses().filter(|witness| times.contains_key(&(witness.key.name().clone(), witness.key.id())));
        let witnesses = cosigned.map(|witness| witness.name.clone()).collect();
        Ok(CosignedCheckpoint { checkpoint, witnesses })
    }

    /// Whether these witnesses, as the policy calls them, meet the quorum.
    pub fn is_met_by(&self, witnesses: &BTreeSet<String>) -> bool {
        let key = |witness: &PolicyWitness| (witness.key.name().clone(), witness.key.id());
        let present = self.witnesses().filter(|witness| witnesses.contains(&witness.name));
        self.check_quorum(&present.map(|witness| (key(witness), UnixSeconds::new(0))).collect()).is_ok()
    }

    /// The checkpoint, the keys of its log that signed, at least one, and the times of all that cosigned.
    fn verify_signatures(&self, note: &[u8]) -> Result<(Checkpoint, Vec<KeyId>, Times), PolicyError> {
        let note = Note::parse(note)?;
        let checkpoint = Checkpoint::parse(note.text())?;
        let logs = self.logs.iter().map(|log| &log.key);
        let witnesses = self.witnesses().map(|witness| &witness.key);
        let signatures = match note.verify(logs.chain(witnesses)) {
            Err(VerifyError::NoKnownKey) => Vec::new(),
            other => other?,
        };
        let mut log_keys = Vec::new();
        let mut times = Times::new();
        for signature in signatures {
            let key = signature.key();
            match signature.time() {
                Some(time) => {
                    times.insert((key.name().clone(), key.id()), time);
                }
                None if key.name() == checkpoint.origin.key_name() => log_keys.push(key.id()),
                None => {}
            }
        }
        if log_keys.is_empty() {
            return Err(PolicyError::NoLogSignature { origin: checkpoint.origin });
        }
        Ok((checkpoint, log_keys, times))
    }

    /// Evaluates the quorum, given the verified cosignatures, and lists them by witness.
    fn check_quorum(&self, times: &Times) -> Result<Vec<WitnessTime>, PolicyError> {
        let mut present = Vec::new();
        let mut missing = Vec::new();
        let mut met = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            met.push(match node {
                Node::Witness(witness) => {
                    let name = witness.name.clone();
                    let time = times.get(&(witness.key.name().clone(), witness.key.id()));
                    match time {
                        Some(time) => present.push(WitnessTime { witness: name, time: *time }),
                        None => missing.push(name),
                    }
                    time.is_some()
                }
                Node::Group(group) => {
                    let count = group.members.iter().filter(|member| met[**member]).count();
                    count >= group.threshold.needed(group.members.len())
                }
            });
        }
        match self.quorum {
            Some(node) if !met[node] => Err(PolicyError::QuorumNotMet {
                quorum: self.nodes[node].name().to_owned(),
                present: present.into_iter().map(|cosignature| cosignature.witness).collect(),
                missing,
            }),
            _ => Ok(present),
        }
    }
}

impl fmt::Display for Policy {
    /// The text of the policy: logs, then witnesses and groups, then the quorum, without comments.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for log in &self.logs {
            write!(f, "log {}", log.key)?;
            write_url(f, log.url.as_deref())?;
        }
        for node in &self.nodes {
            match node {
                Node::Witness(witness) => {
                    write!(f, "witness {} {}", witness.name, witness.key)?;
                    write_url(f, witness.url.as_deref())?;
                }
                Node::Group(group) => {
                    write!(f, "group {} {}", group.name, group.threshold)?;
                    for member in &group.members {
                        write!(f, " {}", self.nodes[*member].name())?;
                    }
                    writeln!(f)?;
                }
            }
        }
        writeln!(f, "quorum {}", self.quorum().unwrap_or(NONE))
    }
}

/// A log key of a policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyLog {
    key: VerifierKey,
    url: Option<String>,
}

impl PolicyLog {
    /// The key; its name is the log's origin.
    pub fn key(&self) -> &VerifierKey {
        &self.key
    }

    /// Where the log is served, if the policy says.
    pub fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }
}

/// A witness of a policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyWitness {
    name: String,
    key: VerifierKey,
    url: Option<String>,
}

impl PolicyWitness {
    /// What the policy calls the witness; the name of its key may differ.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key that cosigns.
    pub fn key(&self) -> &VerifierKey {
        &self.key
    }

    /// Where the witness takes submissions, if the policy says.
    pub fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }
}

/// How many members of a group must be met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Threshold {
    /// Every one.
    All,
    /// At least one.
    Any,
    /// At least so many, from 1 to the number of members.
    AtLeast(usize),
}

impl Threshold {
    /// Reads `all`, `any` or a decimal number.
    fn parse(word: &str) -> Option<Self> {
        match word {
            "all" => Some(Self::All),
            "any" => Some(Self::Any),
            number => {
                let count = usize::try_from(parse_decimal(number)?);
                count.ok().map(Self::AtLeast)
            }
        }
    }

    /// The number of members that must be met, of so many.
    fn needed(self, members: usize) -> usize {
        match self {
            Self::All => members,
            Self::Any => 1,
            Self::AtLeast(count) => count,
        }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Any => f.write_str("any"),
            Self::AtLeast(count) => count.fmt(f),
        }
    }
}

/// A policy that grows line by line, each checked as it comes.
#[derive(Clone, Default, Debug)]
pub struct PolicyBuilder {
    logs: Vec<PolicyLog>,
    nodes: Vec<Node>,
    names: BTreeMap<String, usize>,
    members: BTreeSet<usize>,
    public_keys: BTreeSet<[u8; 32]>,
    key_ids: BTreeSet<(KeyName, KeyId)>,
    quorum: Option<Option<usize>>,
}

impl PolicyBuilder {
    /// Adds a log key, which is of type 01 and named after the log's origin.
    ///
    /// # Errors
    ///
    /// [`PolicyRuleError`] if the key is of another type or known already, or the URL is not one word.
    pub fn log(&mut self, key: VerifierKey, url: Option<&str>) -> Result<(), PolicyRuleError> {
        let url = url.map(check_word).transpose()?;
        self.add_key(&key, KeyKind::Ed25519)?;
        self.logs.push(PolicyLog { key, url });
        Ok(())
    }

    /// Adds a witness, whose key is of type 04.
    ///
    /// # Errors
    ///
    /// [`PolicyRuleError`] if the key is of another type or known already, the name is taken, or name or URL
    /// are not one word.
    pub fn witness(&mut self, name: &str, key: VerifierKey, url: Option<&str>) -> Result<(), PolicyRuleError> {
        let url = url.map(check_word).transpose()?;
        let name = self.check_new_name(name)?;
        self.add_key(&key, KeyKind::CosignatureEd25519)?;
        self.add_node(Node::Witness(Box::new(PolicyWitness { name, key, url })));
        Ok(())
    }

    /// Adds a group of witnesses and groups that were added before.
    ///
    /// # Errors
    ///
    /// [`PolicyRuleError`] if the name is taken or not one word, a member is unknown or already a member, or
    /// the threshold does not fit the number of members.
    pub fn group(&mut self, name: &str, threshold: Threshold, members: &[&str]) -> Result<(), PolicyRuleError> {
        let name = self.check_new_name(name)?;
        let needed = threshold.needed(members.len());
        if members.is_empty() || needed == 0 || needed > members.len() {
            return Err(PolicyRuleError::Threshold { threshold, members: members.len() });
        }
        let members = members.iter().map(|member| self.find(member)).collect::<Result<Vec<_>, _>>()?;
        for member in &members {
            if !self.members.insert(*member) {
                let name = self.nodes[*member].name().to_owned();
                return Err(PolicyRuleError::MemberTwice { name });
            }
        }
        self.add_node(Node::Group(Group { name, threshold, members }));
        Ok(())
    }

    /// Says which witness or group must be met, or `none`.
    ///
    /// # Errors
    ///
    /// [`PolicyRuleError`] if the name is unknown or there is a quorum already.
    pub fn quorum(&mut self, name: &str) -> Result<(), PolicyRuleError> {
        if self.quorum.is_some() {
            return Err(PolicyRuleError::SecondQuorum);
        }
        self.quorum = Some(if name == NONE { None } else { Some(self.find(name)?) });
        Ok(())
    }

    /// Ends the policy.
    ///
    /// # Errors
    ///
    /// [`PolicyRuleError`] if there is no quorum or the text of the policy would be past the bounds.
    pub fn finish(self) -> Result<Policy, PolicyRuleError> {
        let quorum = self.quorum.ok_or(PolicyRuleError::NoQuorum)?;
        let lines = self.logs.len() + self.nodes.len() + 1;
        let policy = Policy { logs: self.logs, nodes: self.nodes, quorum };
        if lines > MAX_POLICY_LINES || policy.to_string().len() > MAX_POLICY_BYTES {
            return Err(PolicyRuleError::TooLong);
        }
        Ok(policy)
    }

    /// Adds what one line says.
    fn line(&mut self, words: &[&str]) -> Result<(), PolicyRuleError> {
        match words {
            [] => Ok(()),
            [first, ..] if first.starts_with('#') => Ok(()),
            ["log", key] => self.log(VerifierKey::parse(key)?, None),
            ["log", key, url] => self.log(VerifierKey::parse(key)?, Some(url)),
            ["witness", name, key] => self.witness(name, VerifierKey::parse(key)?, None),
            ["witness", name, key, url] => self.witness(name, VerifierKey::parse(key)?, Some(url)),
            ["group", name, threshold, members @ ..] => {
                let threshold = Threshold::parse(threshold)
                    .ok_or_else(|| PolicyRuleError::ThresholdText { word: (*threshold).to_owned() })?;
                self.group(name, threshold, members)
            }
            ["quorum", name] => self.quorum(name),
            [keyword, ..] => Err(PolicyRuleError::Words { keyword: (*keyword).to_owned() }),
        }
    }

    /// The node with this name.
    fn find(&self, name: &str) -> Result<usize, PolicyRuleError> {
        let unknown = || PolicyRuleError::UnknownName { name: name.to_owned() };
        self.names.get(name).copied().ok_or_else(unknown)
    }

    fn check_new_name(&self, name: &str) -> Result<String, PolicyRuleError> {
        let name = check_word(name)?;
        if name == NONE || self.names.contains_key(&name) {
            return Err(PolicyRuleError::NameTaken { name });
        }
        Ok(name)
    }

    fn add_node(&mut self, node: Node) {
        self.names.insert(node.name().to_owned(), self.nodes.len());
        self.nodes.push(node);
    }

    fn add_key(&mut self, key: &VerifierKey, kind: KeyKind) -> Result<(), PolicyRuleError> {
        if key.kind() != kind {
            return Err(PolicyRuleError::WrongKind { expected: kind, found: key.kind() });
        }
        let fresh = self.public_keys.insert(key.public_key());
        if !fresh || !self.key_ids.insert((key.name().clone(), key.id())) {
            return Err(PolicyRuleError::DuplicateKey { name: key.name().clone(), id: key.id() });
        }
        Ok(())
    }
}

/// A checkpoint that a policy has accepted. Only [`Policy::verify_checkpoint`] makes one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedCheckpoint {
    checkpoint: Checkpoint,
    log_keys: Vec<KeyId>,
    cosignatures: Vec<WitnessTime>,
}

impl VerifiedCheckpoint {
    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The ids of the origin's log keys that signed, at least one, in the order of the note.
    pub fn log_keys(&self) -> &[KeyId] {
        &self.log_keys
    }

    /// The witnesses who cosigned, with their times, in the order of the policy.
    pub fn cosignatures(&self) -> &[WitnessTime] {
        &self.cosignatures
    }
}

/// A checkpoint whose signatures hold, whoever they are of; see [`Policy::read_checkpoint`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CosignedCheckpoint {
    checkpoint: Checkpoint,
    witnesses: Vec<String>,
}

impl CosignedCheckpoint {
    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What the policy calls the witnesses who cosigned, in its order.
    pub fn witnesses(&self) -> &[String] {
        &self.witnesses
    }
}

/// A witness that cosigned, and when by its clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WitnessTime {
    /// What the policy calls the witness.
    pub witness: String,
    /// The time of the cosignature.
    pub time: UnixSeconds,
}

/// Why a policy does not accept a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The bytes are not a signed note.
    #[error("malformed note")]
    Note(#[from] NoteError),
    /// The text of the note is not a checkpoint.
    #[error("malformed checkpoint")]
    Checkpoint(#[from] CheckpointError),
    /// A key of the policy has a signature that does not hold or is repeated.
    #[error("bad signature")]
    Signature(#[from] VerifyError),
    /// No log key of the checkpoint's origin has signed.
    #[error("no log key of the policy for {origin} has signed the checkpoint")]
    NoLogSignature {
        /// The origin that the checkpoint names.
        origin: Origin,
    },
    /// Too few witnesses cosigned.
    #[error("the quorum {quorum} is not met: cosigned by {present:?}, not by {missing:?}")]
    QuorumNotMet {
        /// The name of the quorum.
        quorum: String,
        /// The policy's witnesses who cosigned.
        present: Vec<String>,
        /// The policy's witnesses who did not.
        missing: Vec<String>,
    },
}

/// Why bytes are not a policy.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum PolicyTextError {
    /// The text is larger than [`MAX_POLICY_BYTES`].
    #[error("the policy is {found} bytes long, more than {limit}")]
    TooLong {
        /// Its length in bytes.
        found: usize,
        /// The bound.
        limit: usize,
    },
    /// The text has more than [`MAX_POLICY_LINES`] lines.
    #[error("the policy has more than {limit} lines")]
    TooManyLines {
        /// The bound.
        limit: usize,
    },
    /// The bytes are not UTF-8.
    #[error("the policy is not UTF-8 at byte {at}")]
    NotUtf8 {
        /// Offset of the first bad byte.
        at: usize,
    },
    /// There is an ASCII control character other than tab and line feed.
    #[error("line {line} of the policy holds the control byte {byte:#04x}")]
    Control {
        /// Line, from 1.
        line: usize,
        /// The byte.
        byte: u8,
    },
    /// The last line is not ended.
    #[error("the policy does not end in a line feed")]
    NoFinalLineFeed,
    /// A line breaks a rule.
    #[error("line {line} of the policy")]
    Line {
        /// Line, from 1.
        line: usize,
        /// The rule.
        source: PolicyRuleError,
    },
    /// The lines together break a rule.
    #[error("the policy as a whole")]
    Whole(#[source] PolicyRuleError),
}

/// Which rule of policies is broken.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum PolicyRuleError {
    /// A line has an unknown first word, or too few or too many words.
    #[error("no line of a policy starts with {keyword:?} and has this number of words")]
    Words {
        /// The first word.
        keyword: String,
    },
    /// A name or URL is empty or holds a space, tab or control character.
    #[error("{word:?} is not one word")]
    NotAWord {
        /// The text.
        word: String,
    },
    /// A key is malformed.
    #[error("malformed key")]
    Key(#[from] KeyError),
    /// A key signs something else.
    #[error("the key is of type {found}; here type {expected} belongs")]
    WrongKind {
        /// What a log or a witness has.
        expected: KeyKind,
        /// What was given.
        found: KeyKind,
    },
    /// A public key, or a key name with the same id, occurs twice.
    #[error("the key {name}+{id} is there already, perhaps under another name or type")]
    DuplicateKey {
        /// The key's name.
        name: KeyName,
        /// The key's id.
        id: KeyId,
    },
    /// A witness or group has the name already, or it is `none`.
    #[error("the name {name:?} is taken")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// No earlier line defines the name.
    #[error("no earlier line defines {name:?}")]
    UnknownName {
        /// The name.
        name: String,
    },
    /// A name is a member a second time.
    #[error("{name:?} is a member of a group already")]
    MemberTwice {
        /// The name.
        name: String,
    },
    /// The third word of a group is no threshold.
    #[error("{word:?} is neither \"all\" nor \"any\" nor a decimal number")]
    ThresholdText {
        /// The word.
        word: String,
    },
    /// A group is empty, or its threshold is 0 or more than its members.
    #[error("a group of {members} members cannot have the threshold {threshold}")]
    Threshold {
        /// The threshold.
        threshold: Threshold,
        /// The number of members.
        members: usize,
    },
    /// There is a second quorum line.
    #[error("there is a quorum already")]
    SecondQuorum,
    /// There is no quorum line.
    #[error("there is no quorum")]
    NoQuorum,
    /// The text of the policy would be past [`MAX_POLICY_BYTES`] or [`MAX_POLICY_LINES`].
    #[error("the policy is too long")]
    TooLong,
}

/// What can be a member.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Node {
    Witness(Box<PolicyWitness>),
    Group(Group),
}

impl Node {
    fn name(&self) -> &str {
        match self {
            Self::Witness(witness) => &witness.name,
            Self::Group(group) => &group.name,
        }
    }
}

/// Members by their position, which is below the group's own.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Group {
    name: String,
    threshold: Threshold,
    members: Vec<usize>,
}

fn write_url(f: &mut fmt::Formatter<'_>, url: Option<&str>) -> fmt::Result {
    match url {
        Some(url) => writeln!(f, " {url}"),
        None => writeln!(f),
    }
}

/// A word as a line can carry it.
fn check_word(word: &str) -> Result<String, PolicyRuleError> {
    let word = word.to_owned();
    if word.is_empty() || word.bytes().any(|byte| byte == b' ' || byte.is_ascii_control()) {
        return Err(PolicyRuleError::NotAWord { word });
    }
    Ok(word)
}

/// The rules for the whole text.
fn check_text(bytes: &[u8]) -> Result<&str, PolicyTextError> {
    if bytes.len() > MAX_POLICY_BYTES {
        return Err(PolicyTextError::TooLong { found: bytes.len(), limit: MAX_POLICY_BYTES });
    }
    let text = core::str::from_utf8(bytes).map_err(|error| PolicyTextError::NotUtf8 { at: error.valid_up_to() })?;
    let mut line = 1;
    for byte in text.bytes() {
        match byte {
            b'\n' => line += 1,
            b'\t' => {}
            _ if byte.is_ascii_control() => return Err(PolicyTextError::Control { line, byte }),
            _ => {}
        }
    }
    if !text.ends_with('\n') {
        return Err(PolicyTextError::NoFinalLineFeed);
    }
    if line > MAX_POLICY_LINES + 1 {
        return Err(PolicyTextError::TooManyLines { limit: MAX_POLICY_LINES });
    }
    Ok(text)
}

#[cfg(test)]
mod tests;

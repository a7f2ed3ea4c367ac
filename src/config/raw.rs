//! The file as it was written, and the flags that override it; becomes a [`Config`] or a list of faults.
//!
//! Not here: any meaning of a key. Invariant: [`RawConfig::settle`] reports every fault that it can see, not the first.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::registry::{self, COORDINATORS_MAX, KEYS, Key};
use super::{Config, ConfigError, Fault, cross};

/// Largest file that is read, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A flag's `KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Override {
    path: String,
    text: String,
}

impl Override {
    /// An override of a key that is known to be one.
    pub(crate) fn new(path: &str, text: impl Into<String>) -> Self {
        Self { path: path.to_owned(), text: text.into() }
    }
}

impl std::str::FromStr for Override {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let (path, text) = s.split_once('=').ok_or("expected KEY=VALUE, such as deployment.tp=2")?;
        let known = registry::find(path.trim()).filter(|k| !k.path.starts_with("coordinators"));
        let key = known.ok_or_else(|| match registry::nearest(path.trim()) {
            Some(nearest) => format!("no such key `{path}`; did you mean `{nearest}`?"),
            None => format!("no such key `{path}`"),
        })?;
        Ok(Self::new(key.path, text.trim()))
    }
}

/// A parsed file.
#[derive(Debug, Clone)]
pub(crate) struct RawConfig {
    table: Table,
    origin: String,
    base: PathBuf,
}

impl RawConfig {
    /// Reads and parses a file.
    ///
    /// # Errors
    /// [`ConfigError::Read`], [`ConfigError::TooLarge`], [`ConfigError::Syntax`].
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        let found = std::fs::metadata(path).map_err(read)?.len();
        if found > FILE_BYTES_MAX {
            return Err(ConfigError::TooLarge { path: path.to_owned(), found, max: FILE_BYTES_MAX });
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        let base = std::path::absolute(path).map_err(read)?.parent().map(Path::to_owned).unwrap_or_default();
        Self::parse(&text, &path.display().to_string(), &base)
    }

    /// Parses a text; `base` is where relative paths count from.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`].
    pub(crate) fn parse(text: &str, origin: &str, base: &Path) -> Result<Self, ConfigError> {
        let syntax = |e: toml::de::Error| {
            let line = e.span().map_or(1, |s| text[..s.start.min(text.len())].matches('\n').count() + 1);
            let reason = format!("line {line}: {}", e.message().lines().collect::<Vec<_>>().join(", "));
            ConfigError::Syntax { origin: origin.to_owned(), reason }
        };
        Ok(Self::from_table(text.parse::<Table>().map_err(syntax)?, origin, base))
    }

    /// What another part of the program says in place of a file.
    pub(crate) fn from_table(table: Table, origin: &str, base: &Path) -> Self {
        Self { table, origin: origin.to_owned(), base: base.to_owned() }
    }

    /// Checks every key, applies flags and defaults.
    ///
    /// # Errors
    /// [`ConfigError::Faults`] with every fault.
    pub(crate) fn settle(self, overrides: &[Override]) -> Result<Config, ConfigError> {
        let Self { mut table, origin, base } = self;
        let mut faults = Vec::new();
        for o in overrides {
            apply_override(&mut table, o);
        }
        refuse_unknown(&table, &mut faults);
        for (section, keys) in sections() {
            if section == "coordinators[]" {
                settle_coordinators(&mut table, &keys, &base, &mut faults);
            } else {
                settle_section(&mut table, section, &keys, &base, &mut faults);
            }
        }
        if faults.is_empty() {
            let config: Config = Value::Table(table).try_into().expect("each key was checked against its kind");
            faults = cross::check(&config);
            if faults.is_empty() {
                return Ok(config);
            }
        }
        Err(ConfigError::Faults { origin, faults })
    }
}

fn apply_override(table: &mut Table, o: &Override) {
    let key = registry::find(&o.path).expect("an override names a registered key");
    let (section, name) = key.path.split_once('.').expect("every path has a section");
    let entry = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    if let Some(section) = entry.as_table_mut() {
        section.insert(name.to_owned(), key.value_from_flag(&o.text));
    }
}

/// The registry by section, in its order.
fn sections() -> Vec<(&'static str, Vec<&'static Key>)> {
    let mut out: Vec<(&str, Vec<&Key>)> = Vec::new();
    for key in KEYS {
        let (section, _) = key.path.split_once('.').expect("every path has a section");
        match out.last_mut() {
            Some((last, keys)) if *last == section => keys.push(key),
            _ => out.push((section, vec![key])),
        }
    }
    out
}

fn refuse_unknown(table: &Table, faults: &mut Vec<Fault>) {
    let mut check = |shown: String, path: &str| {
        if registry::find(path).is_none() {
            faults.push(Fault::UnknownKey { path: shown, nearest: registry::nearest(path) });
        }
    };
    for (section, value) in table {
        match value {
            Value::Table(keys) if KEYS.iter().any(|k| k.path.starts_with(&format!("{section}."))) => {
                keys.keys().for_each(|k| check(format!("{section}.{k}"), &format!("{section}.{k}")));
            }
            Value::Array(entries) if section == "coordinators" => {
                for (i, entry) in entries.iter().enumerate() {
                    let keys = entry.as_table().into_iter().flat_map(Table::keys);
                    keys.for_each(|k| check(format!("coordinators[{i}].{k}"), &format!("coordinators[].{k}")));
                }
            }
            // A section that is not a table is reported where the section is settled.
            _ if section == "coordinators" || sections().iter().any(|(s, _)| s == section) => {}
            _ => check(section.clone(), section),
        }
    }
}

fn settle_section(table: &mut Table, section: &str, keys: &[&Key], base: &Path, faults: &mut Vec<Fault>) {
    let value = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    match value.as_table_mut() {
        Some(values) => keys.iter().for_each(|key| settle_key(values, section, key, base, faults)),
        None => faults.push(bad_value(section, value, format!("a table `[{section}]`"))),
    }
}

fn settle_coordinators(table: &mut Table, keys: &[&Key], base: &Path, faults: &mut Vec<Fault>) {
    let accepts = format!("1..={COORDINATORS_MAX} tables `[[coordinators]]` with id, internal, admin and public");
    let Some(value) = table.get_mut("coordinators") else {
        faults.push(Fault::Missing { path: "coordinators".to_owned(), accepts });
        return;
    };
    let entries = match value.as_array_mut() {
        Some(entries) if (1..=COORDINATORS_MAX).contains(&entries.len()) => entries,
        Some(entries) => {
            let found = format!("{} tables", entries.len());
            faults.push(Fault::BadValue { path: "coordinators".to_owned(), found, accepts });
            return;
        }
        None => return faults.push(bad_value("coordinators", value, accepts)),
    };
    for (i, entry) in entries.iter_mut().enumerate() {
        let section = format!("coordinators[{i}]");
        match entry.as_table_mut() {
            Some(values) => keys.iter().for_each(|key| settle_key(values, &section, key, base, faults)),
            None => faults.push(bad_value(&section, entry, accepts.clone())),
        }
    }
}

fn settle_key(values: &mut Table, section: &str, key: &Key, base: &Path, faults: &mut Vec<Fault>) {
    let (_, name) = key.path.split_once('.').expect("every path has a section");
    let path = format!("{section}.{name}");
    match (values.get_mut(name), key.default_value()) {
        (Some(value), _) if !key.admits(value) => faults.push(bad_value(&path, value, key.accepts())),
        (Some(Value::String(text)), _) if matches!(key.kind, registry::Kind::Path) => {
            *text = base.join(&*text).display().to_string();
        }
        (Some(_), _) => {}
        (None, Some(default)) => {
            values.insert(name.to_owned(), default);
        }
        (None, None) => faults.push(Fault::Missing { path, accepts: format!("{}: {}", key.accepts(), key.reason) }),
    }
}

fn bad_value(path: &str, value: &Value, accepts: String) -> Fault {
    let found = value.to_string().chars().take(80).collect();
    Fault::BadValue { path: path.to_owned(), found, accepts }
}

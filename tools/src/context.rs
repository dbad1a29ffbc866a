//! `stele context`: clusters by name, in a file of the user's.
//!
//! The file is `$STELE_CONTEXTS`, else `$XDG_CONFIG_HOME/stele/contexts.toml`, else `~/.config/stele/contexts.toml`:
//!
//! ```toml
//! current = "audit"
//!
//! [context.audit]
//! endpoints = ["https://a.example.com:7070"]
//! origin = "example.com/audit"
//! policy = "/etc/stele/policy"
//! ca = "/etc/stele/ca.pem"
//! cert = "/etc/stele/me.pem"
//! key = "/etc/stele/me-key.pem"
//! token_file = "/etc/stele/token"
//! ```

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use stele_engine::disk::{Mode, replace};
use stele_engine::environment::Environment;
use toml::{Table, Value};

use crate::exit::{Exit, Failure};
use crate::stream::Streams;

/// The environment variable that names the file.
pub const FILE_VARIABLE: &str = "STELE_CONTEXTS";
/// The environment variable that names the context.
pub const NAME_VARIABLE: &str = "STELE_CONTEXT";

/// What to do with contexts.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Print the contexts; the one in use has a star.
    List,
    /// Make a context, or replace one.
    Set(SetArguments),
    /// Use a context where neither --log, --endpoint nor --context says otherwise.
    Use(NameArguments),
    /// Forget a context.
    Remove(NameArguments),
}

/// The arguments of `stele context set`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  stele context set audit --endpoint a.example.com:7070,b.example.com:7070 --ca ca.pem --policy policy")]
pub struct SetArguments {
    /// The name of the context.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// How the cluster is reached.
    #[command(flatten)]
    pub reach: Reach,
}

/// A context that is there.
#[derive(Args, Debug)]
pub struct NameArguments {
    /// The name of the context.
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// How a cluster is reached.
#[derive(Args, Clone, Default, Debug)]
pub struct Reach {
    /// Nodes of a cluster to ask: `host:port`, `http://host:port` or `https://host:port`.
    #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',')]
    pub endpoint: Vec<String>,
    /// The log; needed where a node serves several.
    #[arg(long, value_name = "ORIGIN")]
    pub origin: Option<String>,
    /// The policy that checkpoints, proofs and the records that are read must meet. Without it, that of the server is
    /// taken for checkpoints and proofs, and records are not proved; both is told.
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Roots that vouch for the nodes, PEM; `host:port` then means https.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The client's certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// A file that holds the client's token, where the nodes know clients by tokens.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// Does what was asked.
///
/// # Errors
/// [`Failure`]: exit code 6 where there is no such context.
pub fn run(command: &Command, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let mut contexts = Contexts::read()?;
    match command {
        Command::List => return contexts.list(streams),
        Command::Set(arguments) => contexts.set(&arguments.name, &arguments.reach)?,
        Command::Use(arguments) => contexts.choose(&arguments.name)?,
        Command::Remove(arguments) => contexts.remove(&arguments.name)?,
    }
    contexts.write(environment)
}

/// How the context of this name is reached, or else the one in use; `None` where none is in use.
///
/// # Errors
/// [`Failure`]: exit code 6 where there is no such context.
pub fn reach(name: Option<&str>) -> Result<Option<Reach>, Failure> {
    let chosen = name.map(str::to_owned).or_else(|| std::env::var(NAME_VARIABLE).ok().filter(|name| !name.is_empty()));
    let contexts = match Contexts::read() {
        Ok(contexts) => contexts,
        // Whoever names none is not to stumble over a file that is of no use here.
        Err(_) if chosen.is_none() => return Ok(None),
        Err(error) => return Err(error),
    };
    match chosen.or_else(|| contexts.current()) {
        Some(name) => contexts.get(&name).map(Some),
        None => Ok(None),
    }
}

struct Contexts {
    path: PathBuf,
    table: Table,
}

impl Contexts {
    fn read() -> Result<Self, Failure> {
        let path = path()?;
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(anyhow!(error).context(format!("cannot read {}", path.display())).into()),
        };
        let table =
            text.parse::<Table>().map_err(|error| anyhow!("{} is no TOML: {}", path.display(), error.message()))?;
        Ok(Self { path, table })
    }

    fn write(&self, environment: &Environment) -> Result<(), Failure> {
        if let Some(parent) = self.path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        Ok(replace(environment.disk.as_ref(), &self.path, self.table.to_string().as_bytes(), Mode::Private)?)
    }

    fn all(&self) -> Option<&Table> {
        self.table.get("context").and_then(Value::as_table)
    }

    fn current(&self) -> Option<String> {
        self.table.get("current").and_then(Value::as_str).map(str::to_owned)
    }

    fn list(&self, streams: &mut Streams<'_>) -> Result<(), Failure> {
        let current = self.current();
        for name in self.all().into_iter().flat_map(Table::keys) {
            let reach = self.get(name)?;
            let star = if current.as_deref() == Some(name.as_str()) { '*' } else { ' ' };
            let origin = reach.origin.as_deref().unwrap_or("-");
            streams.line(format_args!("{star} {name}  {origin}  {}", reach.endpoint.join(",")))?;
        }
        Ok(())
    }

    fn missing(&self, name: &str) -> Failure {
        let why = anyhow!("there is no context {name:?} in {}; `stele context list` shows them", self.path.display());
        Failure::new(Exit::NotFound, why)
    }

    fn get(&self, name: &str) -> Result<Reach, Failure> {
        let of =
            self.all().and_then(|all| all.get(name)).and_then(Value::as_table).ok_or_else(|| self.missing(name))?;
        let text = |key: &str| of.get(key).and_then(Value::as_str).map(str::to_owned);
        let endpoints = of.get("endpoints").and_then(Value::as_array).into_iter().flatten();
        let endpoint: Vec<String> = endpoints.filter_map(Value::as_str).map(str::to_owned).collect();
        if endpoint.is_empty() {
            return Err(anyhow!("context {name:?} in {} has no endpoints", self.path.display()).into());
        }
        let path = |key: &str| text(key).map(PathBuf::from);
        let (policy, ca, cert, key) = (path("policy"), path("ca"), path("cert"), path("key"));
        let token_file = path("token_file");
        Ok(Reach { endpoint, origin: text("origin"), policy, ca, cert, key, token_file })
    }

    fn set(&mut self, name: &str, reach: &Reach) -> Result<(), Failure> {
        if reach.endpoint.is_empty() {
            return Err(Failure::new(Exit::Usage, anyhow!("--endpoint is missing: where is the cluster reached?")));
        }
        let mut of = Table::new();
        let endpoints = reach.endpoint.iter().cloned().map(Value::String).collect();
        of.insert("endpoints".into(), Value::Array(endpoints));
        of.extend(reach.origin.clone().map(|origin| ("origin".to_owned(), Value::String(origin))));
        let files = [
            ("policy", &reach.policy),
            ("ca", &reach.ca),
            ("cert", &reach.cert),
            ("key", &reach.key),
            ("token_file", &reach.token_file),
        ];
        for (key, file) in files {
            let Some(file) = file else { continue };
            // The context is used from other directories.
            let file = std::path::absolute(file).with_context(|| format!("cannot use {}", file.display()))?;
            let text = file.to_str().ok_or_else(|| anyhow!("{} is no UTF-8", file.display()))?;
            of.insert(key.to_owned(), Value::String(text.to_owned()));
        }
        let all = self.table.entry("context").or_insert_with(|| Value::Table(Table::new()));
        let all = all.as_table_mut().ok_or_else(|| anyhow!("`context` is no table in {}", self.path.display()))?;
        all.insert(name.to_owned(), Value::Table(of));
        if self.current().is_none() {
            self.table.insert("current".into(), Value::String(name.to_owned()));
        }
        Ok(())
    }

    fn choose(&mut self, name: &str) -> Result<(), Failure> {
        self.get(name)?;
        self.table.insert("current".into(), Value::String(name.to_owned()));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), Failure> {
        let gone = self.table.get_mut("context").and_then(Value::as_table_mut).and_then(|all| all.remove(name));
        if gone.is_none() {
            return Err(self.missing(name));
        }
        if self.current().as_deref() == Some(name) {
            self.table.remove("current");
        }
        Ok(())
    }
}

fn path() -> Result<PathBuf, Failure> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = variable(FILE_VARIABLE) {
        return Ok(path);
    }
    let base = variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| home.join(".config")));
    let base = base.ok_or_else(|| anyhow!("neither HOME nor {FILE_VARIABLE} says where contexts are kept"))?;
    Ok(base.join("stele").join("contexts.toml"))
}

//! The keys of a node: made once, before its log is, for the others must know them from the first entry on.

use std::path::Path;

use stele_engine::checkpointing::NodeKeys;
use stele_engine::directory::LogDirectory;
use stele_engine::disk::{Access, Mode, replace};
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::number::{NodeId, SiteName};
use stele_proof::checkpoint::Origin;
use stele_proof::key::{KeyKind, KeyName, SigningKey};

use crate::config::Member;

/// Why there are no keys that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyTrouble {
    /// The directory, or a key in it.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Origin and site give no name for a key.
    #[error("no key can be named after this origin and site: {0}")]
    Name(#[from] stele_proof::key::KeyNameError),
    /// The cluster knows this node by another key.
    #[error(
        "keys/{file} in {directory} is {found}, and initial_cluster names {named} for node {node}; put that key back, or name this one at all nodes"
    )]
    Other {
        /// Which key.
        file: &'static str,
        /// The log's directory.
        directory: String,
        /// What is there.
        found: String,
        /// What the cluster says.
        named: String,
        /// This node.
        node: NodeId,
    },
}

impl From<stele_engine::disk::DiskError> for KeyTrouble {
    fn from(error: stele_engine::disk::DiskError) -> Self {
        Self::Log(error.into())
    }
}

/// The name of a node's cosigner key.
pub fn cosigner_name(origin: &Origin, site: &SiteName, node: NodeId) -> String {
    format!("{}/site/{site}/{node}", origin.as_str())
}

/// Reads the keys of a node; makes those that are not there.
///
/// # Errors
/// [`KeyTrouble`].
pub fn make_or_load(
    environment: &Environment,
    data_dir: &Path,
    node: (NodeId, &SiteName),
    origin: &Origin,
) -> Result<NodeKeys, KeyTrouble> {
    let directory = LogDirectory::new(data_dir);
    let disk = environment.disk.as_ref();
    let cosigner = KeyName::new(&cosigner_name(origin, node.1, node.0))?;
    disk.create_directory(&directory.keys())?;
    // A directory whose name is lost takes the keys along.
    disk.sync_directory(directory.path())?;
    if let Some(parent) = directory.path().parent().filter(|parent| !parent.as_os_str().is_empty()) {
        disk.sync_directory(parent)?;
    }
    let wanted = [
        (directory.log_key(), origin.key_name().clone(), KeyKind::Ed25519),
        (directory.cosigner_key(), cosigner, KeyKind::CosignatureEd25519),
    ];
    for (path, name, kind) in wanted {
        match disk.open(&path, Access::Read) {
            Ok(_) => continue,
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let key = SigningKey::from_seed(name, kind, environment.random().map_err(LogError::Entropy)?);
        replace(disk, &path, format!("{}\n", key.to_private_text()).as_bytes(), Mode::Private)?;
    }
    Ok(NodeKeys::load(disk, &directory)?)
}

/// Whether the keys are those that the cluster knows this node by.
///
/// # Errors
/// [`KeyTrouble::Other`].
pub fn check(keys: &NodeKeys, member: &Member, data_dir: &Path) -> Result<(), KeyTrouble> {
    let pairs = [("log", &keys.log, &member.log_key), ("cosigner", &keys.cosigner, &member.cosigner)];
    for (file, key, named) in pairs {
        if key.verifier_key() != named {
            return Err(KeyTrouble::Other {
                file,
                directory: data_dir.display().to_string(),
                found: key.verifier_key().to_string(),
                named: named.to_string(),
                node: member.node,
            });
        }
    }
    Ok(())
}

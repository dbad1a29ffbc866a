//! Which server is asked: the leader where one is known, else the endpoints in turn.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use stele_api::MAX_MESSAGE_BYTES;
use stele_api::v1;
use stele_api::v1::log_client::LogClient;
use tonic::transport::Channel;

use crate::backoff::Backoff;
use crate::config::{Address, ClientConfig};
use crate::credentials::{Credentials, Wire};
use crate::dial::DialError;
use crate::error::Violation;

/// The most connections to servers that are not among the endpoints.
const MAX_NAMED: usize = 16;

pub(crate) struct Router {
    config: ClientConfig,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    leader: Option<Address>,
    turn: usize,
    channels: BTreeMap<Address, Channel>,
    drawn: u64,
}

impl Router {
    pub(crate) fn new(config: ClientConfig) -> Self {
        Self { config, state: Mutex::default() }
    }

    pub(crate) const fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Waits of their own for one task.
    pub(crate) fn backoff(&self) -> Backoff {
        let mut state = self.state();
        state.drawn = state.drawn.wrapping_add(1);
        Backoff::new(self.config.retry, self.config.jitter_seed.wrapping_add(state.drawn.rotate_left(32)))
    }

    /// Who is to be asked now.
    pub(crate) fn target(&self) -> Address {
        let state = self.state();
        let in_turn = || self.config.endpoints[state.turn % self.config.endpoints.len()].clone();
        state.leader.clone().unwrap_or_else(in_turn)
    }

    /// A connection to a server, kept for the next one who asks.
    pub(crate) async fn channel(&self, address: &Address) -> Result<Wire, DialError> {
        let credentials = Credentials::new(self.config.token.clone());
        if let Some(channel) = self.state().channels.get(address) {
            return Ok(credentials.wire(channel.clone()));
        }
        let channel = self.config.dial.dial(address).await?;
        let mut state = self.state();
        if state.channels.len() >= self.config.endpoints.len() + MAX_NAMED {
            state.channels.clear();
        }
        state.channels.insert(address.clone(), channel.clone());
        Ok(credentials.wire(channel))
    }

    /// The server did not answer: the next one is asked.
    pub(crate) fn failed(&self, address: &Address) {
        let mut state = self.state();
        state.channels.remove(address);
        if state.leader.as_ref() == Some(address) {
            state.leader = None;
        } else if self.config.endpoints.get(state.turn % self.config.endpoints.len()) == Some(address) {
            state.turn = state.turn.wrapping_add(1);
        }
    }

    /// The server named another one as leader. Without an address the next endpoint is asked.
    pub(crate) fn redirected(&self, from: &Address, leader: Option<&v1::Leader>) -> Result<(), Violation> {
        let Some(text) = leader.map(|leader| leader.address.as_str()).filter(|text| !text.is_empty()) else {
            self.moved_on(from);
            return Ok(());
        };
        let encrypted = self.config.endpoints.iter().any(Address::is_encrypted);
        match Address::new(text) {
            Ok(address)
                if (address.is_encrypted() || !encrypted) && (self.config.token.is_none() || address.is_private()) =>
            {
                self.state().leader = Some(address);
                Ok(())
            }
            _ => Err(Violation::LeaderAddress { address: text.to_owned() }),
        }
    }

    /// As [`Router::failed`], but its connection is sound.
    pub(crate) fn moved_on(&self, from: &Address) {
        let channel = self.state().channels.get(from).cloned();
        self.failed(from);
        if let Some(channel) = channel {
            self.state().channels.insert(from.clone(), channel);
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The generated client, with the bounds of the interface.
pub(crate) fn log_client(channel: Wire) -> LogClient<Wire> {
    LogClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES)
}

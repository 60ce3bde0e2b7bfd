//! What every command gets: where to print, how long to wait, how to reach the coordinator.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    client::{CALL_TIMEOUT, Client},
    context::{self, Context},
    exit::Failure,
    options::Global,
    output::{Color, Ui},
    retry::PATIENCE,
    trust,
};

/// One run of `isyctl`.
#[derive(Debug)]
pub struct App {
    pub ui: Ui,
    global: Global,
    /// The client that was made last, and its context's file.
    used: Mutex<Option<(PathBuf, Client)>>,
}

impl App {
    pub fn new(global: Global) -> Self {
        let color = if global.no_color {
            Color::Never
        } else {
            global.color
        };
        Self {
            ui: Ui::new(global.output, color, global.verbose),
            global,
            used: Mutex::default(),
        }
    }

    /// A client for the chosen context.
    pub fn client(&self) -> Result<Client, Failure> {
        let path = self.context_file()?;
        let context = Context::usable(&path)?;
        self.ui.detail(|| {
            format!(
                "context {} ({}), coordinator {}",
                context.name,
                path.display(),
                context.endpoint
            )
        });
        let client = self.client_of(context)?;
        let used = Some((path, client.clone()));
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = used;
        Ok(client)
    }

    /// The file of the chosen context.
    pub fn context_file(&self) -> Result<PathBuf, Failure> {
        context::find(self.global.context.as_deref())
    }

    /// A client for another context than the chosen one's file holds.
    pub fn client_of(&self, context: Context) -> Result<Client, Failure> {
        let show = match &self.global.context {
            Some(asked) => format!("isyctl --context {asked} context show"),
            None => "isyctl context show".to_owned(),
        };
        let patience = self.global.timeout.unwrap_or(PATIENCE);
        Client::new(context, show, (self.call_timeout(), patience), self.ui)
    }

    /// After a command: has the context keep up with the coordinator's CAs, if it has fallen behind. What it cannot do it
    /// says; the command's result stands.
    pub async fn follow_trust(&self) {
        let used = self
            .used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some((path, client)) = used.filter(|(_, client)| client.other_trust()) {
            trust::keep_up(&client, &path, &self.ui).await;
        }
    }

    /// Deadline of a single call.
    pub fn call_timeout(&self) -> Duration {
        self.global
            .timeout
            .map_or(CALL_TIMEOUT, |asked| asked.min(CALL_TIMEOUT))
    }

    /// How long to wait for an operation; none without `--timeout`.
    pub fn wait_limit(&self) -> Option<Duration> {
        self.global.timeout
    }

    /// The context given with `--context`, if any.
    pub fn asked_context(&self) -> Option<&str> {
        self.global.context.as_deref()
    }
}

//! What every command gets: where to print, how long to wait, how to reach the coordinator.

use std::{path::PathBuf, time::Duration};

use crate::{
    client::{CALL_TIMEOUT, Client},
    context::{self, Context},
    exit::Failure,
    options::Global,
    output::{Color, Ui},
    retry::PATIENCE,
};

/// One run of `isyctl`.
#[derive(Debug)]
pub struct App {
    pub ui: Ui,
    global: Global,
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
        }
    }

    /// A client for the chosen context.
    pub fn client(&self) -> Result<Client, Failure> {
        let path = self.context_file()?;
        let (context, exposed) = Context::read(&path)?;
        if exposed {
            self.ui.note(&format!(
                "warning: others can read {}: it holds a private key (chmod 600)",
                path.display()
            ));
        }
        self.ui.detail(|| {
            format!(
                "context {} ({}), coordinator {}",
                context.name,
                path.display(),
                context.endpoint
            )
        });
        self.client_of(context)
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

//! `isyctl host token`: with what a machine joins; the tokens that there are, and taking one back.

use std::time::Duration;

use clap::{Args, Subcommand};
use isyone_proto::pb::v1::{
    CreateJoinTokenRequest, JoinToken, ListJoinTokensRequest, RevokeJoinTokenRequest,
};

use crate::{
    app::App,
    exit::{Exit, Outcome},
    options,
    output::{
        format,
        table::{Cell, Table, clean},
        wire::Wire,
    },
};

/// `isyctl host token`, and what is below it.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
The token goes to standard output and nowhere else; it works once. A machine that joins with one made for its name is let in; \
with one for any name it waits for `isyctl host approve`, unless the coordinator's [join] auto_approve says otherwise.

Examples:
  isyctl host token --host h4 > token
  isyctl host token --host h4 --from 192.0.2.0/24 --ttl 15m --label zone=eu > token
  isyctl host token --host h1 --same-machine > token      the coordinator's own machine
  isyctl host token list
then, on the new machine:
  isy-agent join --coordinator COORDINATOR:7444 --token-file token"
)]
pub struct Token {
    #[command(subcommand)]
    command: Option<TokenCommand>,
    #[command(flatten)]
    make: Make,
}

/// `isyctl host token …`.
#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// List the tokens that have not expired, without their secrets
    #[command(alias = "ls")]
    List(List),
    /// Take a token back that nobody has used
    Revoke(Revoke),
}

/// What a new token is bound to.
#[derive(Debug, Args)]
struct Make {
    /// Name that the machine must take; else it chooses, and waits for approval
    #[arg(long)]
    host: Option<String>,
    /// Address or network that the machine must join from; may be repeated
    #[arg(long = "from", value_name = "CIDR")]
    from: Vec<String>,
    /// The machine is the coordinator's own: it may advertise loopback and the coordinator's addresses
    #[arg(long)]
    same_machine: bool,
    /// How long it can be used (an hour, at most a week)
    #[arg(long, value_name = "TIME", value_parser = options::duration)]
    ttl: Option<Duration>,
    /// Label that the host gets on joining; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = options::label)]
    labels: Vec<(String, String)>,
}

/// `isyctl host token list`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  isyctl host token list\n  isyctl host token list -o json")]
struct List {
    /// At most this many
    #[arg(long, value_name = "N", value_parser = options::count)]
    limit: Option<usize>,
}

/// `isyctl host token revoke`.
#[derive(Debug, Args)]
#[command(after_help = "\
The id is the second part of a token, between its dots, and what `isyctl host token list` shows.

Examples:
  isyctl host token revoke 0123456789abcdef")]
struct Revoke {
    /// The token's id
    id: String,
}

impl Token {
    pub async fn run(self, app: &App) -> Outcome {
        match self.command {
            None => self.make.run(app).await,
            Some(TokenCommand::List(command)) => command.run(app).await,
            Some(TokenCommand::Revoke(command)) => command.run(app).await,
        }
    }
}

impl Make {
    async fn run(self, app: &App) -> Outcome {
        let labels = options::labels(&self.labels)?;
        let client = app.client()?;
        let ttl = self.ttl.map_or(0, |ttl| ttl.as_secs().max(1));
        let for_any_name = self.host.is_none();
        let request = client.request(CreateJoinTokenRequest {
            host: self.host.unwrap_or_default(),
            // The coordinator rejects a value that is too long.
            ttl_seconds: u32::try_from(ttl).unwrap_or(u32::MAX),
            labels,
            from_networks: self.from,
            same_machine: self.same_machine,
        });
        let made = client
            .call(
                "make a join token",
                client.hosts().create_join_token(request),
            )
            .await?;
        app.ui.emit(
            &Wire::of(&made),
            || vec![made.token.clone()],
            |_| format!("{}\n", made.token),
        )?;
        if app.ui.for_people() {
            app.ui.note(&format!(
                "It works once, until {}. On the new machine, with the token in a file:",
                format::local(made.expire_time.as_ref())
            ));
            app.ui.note(&format!(
                "  isy-agent join --coordinator {} --token-file FILE",
                clean(&made.enroll_endpoint)
            ));
            if for_any_name {
                app.ui.note("It is for any name: the machine then waits for `isyctl host approve NAME`, unless the coordinator's [join] auto_approve says otherwise.");
            }
        }
        Ok(Exit::Done)
    }
}

impl List {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let tokens = client
            .pages(self.limit, |page_size, page_token| {
                let request = ListJoinTokensRequest {
                    page_size,
                    page_token,
                };
                let client = &client;
                async move {
                    let page = client
                        .read("list join tokens", request, |c, r| async move {
                            c.hosts().list_join_tokens(r).await
                        })
                        .await?;
                    Ok((page.tokens, page.next_page_token))
                }
            })
            .await?;
        let ids = || tokens.iter().map(|t| t.id.clone()).collect();
        app.ui
            .emit(&Wire::all(&tokens), ids, |wide| list(&tokens, wide))?;
        Ok(Exit::Done)
    }
}

fn list(tokens: &[JoinToken], wide: bool) -> String {
    if tokens.is_empty() {
        return String::new();
    }
    let mut header = vec!["ID", "HOST", "FROM", "UNTIL", "MADE BY", "USED BY"];
    if wide {
        header.extend(["LABELS", "MADE"]);
    }
    let mut table = Table::new(header);
    for token in tokens {
        let mut from = token.from_networks.join(",");
        if token.same_machine {
            from = [from.as_str(), "same machine"].join(" ").trim().to_owned();
        }
        let any = |text: &str| if text.is_empty() { "any" } else { text }.to_owned();
        let mut row: Vec<Cell> = vec![
            token.id.as_str().into(),
            any(&token.host).into(),
            any(&from).into(),
            format::local(token.expire_time.as_ref()).into(),
            format::or_dash(&token.creator).into(),
            format::or_dash(&token.used_by).into(),
        ];
        if wide {
            row.extend([
                format::labels(&token.labels).into(),
                format::local(token.create_time.as_ref()).into(),
            ]);
        }
        table.row(row);
    }
    table.render()
}

impl Revoke {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let id = clean(&self.id);
        let request = client.request(RevokeJoinTokenRequest { id: self.id });
        // Somebody may have pasted the whole token: an error must not repeat it.
        client
            .call(
                "revoke the join token",
                client.hosts().revoke_join_token(request),
            )
            .await?;
        app.ui.note(&format!(
            "join token {id} is taken back; nobody joins with it"
        ));
        Ok(Exit::Done)
    }
}

//! The canned coordinator's programs in containers: what they say to what they are asked.

use isyone_proto::pb::v1::{exec_request::Message as In, exec_response::Message as Out, *};
use tokio_stream::StreamExt as _;
use tonic::{Status, Streaming};

use super::odoo;

type ToCaller = tokio::sync::mpsc::Sender<Result<ExecResponse, Status>>;

/// A program, by its arguments.
pub(super) async fn run(start: ExecStart, mut requests: Streaming<ExecRequest>, to: ToCaller) {
    let answer = |message| {
        Ok(ExecResponse {
            message: Some(message),
        })
    };
    let arguments: Vec<&str> = start.arguments.iter().map(String::as_str).collect();
    let code = match arguments[..] {
        ["exit", code] => {
            let _ = to.send(answer(Out::Stderr(b"leaving\n".to_vec()))).await;
            code.parse().unwrap()
        }
        ["vanish"] => return,
        ["what"] => {
            let text = format!(
                "kind {} tty {} size {}x{}{}\r\n",
                start.kind,
                start.tty,
                start.columns,
                start.rows,
                if start.root { " as root" } else { "" }
            );
            let _ = to.send(answer(Out::Stdout(text.into_bytes()))).await;
            0
        }
        [] if start.kind() == ExecKind::OdooShell && !start.tty => {
            let script = match requests.next().await {
                Some(Ok(ExecRequest {
                    message: Some(In::Stdin(script)),
                })) => String::from_utf8(script).unwrap(),
                other => panic!("no script: {other:?}"),
            };
            let said = odoo::said(&script);
            let _ = to.send(answer(Out::Stdout(said.into()))).await;
            0
        }
        ["-XAtqc", query] if query.contains("from mail_mail") => {
            let _ = to.send(answer(Out::Stdout(odoo::MAILS.into()))).await;
            0
        }
        _ => echo(&mut requests, &to).await,
    };
    let _ = to.send(answer(Out::ExitCode(code))).await;
}

/// Echoes its input until it ends or contains a `q`; reports a new window size.
async fn echo(requests: &mut Streaming<ExecRequest>, to: &ToCaller) -> i32 {
    while let Some(Ok(ExecRequest {
        message: Some(message),
    })) = requests.next().await
    {
        let bytes = match message {
            In::Stdin(bytes) => bytes,
            In::Resize(size) => format!("now {}x{}\r\n", size.columns, size.rows).into_bytes(),
            In::StdinEof(_) => return 0,
            In::Start(_) => return 99,
        };
        let quit = bytes.contains(&b'q');
        let _ = to
            .send(Ok(ExecResponse {
                message: Some(Out::Stdout(bytes)),
            }))
            .await;
        if quit {
            return 5;
        }
    }
    98
}

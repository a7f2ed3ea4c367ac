//! `shardglm chat`: one message from the arguments, or a conversation line by line; answers stream to the terminal.

use std::io::{BufRead, IsTerminal};

use tokio::sync::mpsc;

use super::{Failure, print};
use crate::chat::{ChatClient, ChatParams};
use crate::openai::Turn;

/// Arguments of `chat`.
#[derive(Debug, clap::Args)]
pub(super) struct ChatArgs {
    /// The message; without one, a conversation until Ctrl-D
    message: Vec<String>,
    /// A coordinator's public address
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    url: String,
    /// The model's name; else the first that the endpoint lists
    #[arg(long)]
    model: Option<String>,
    /// What the model is told before the conversation
    #[arg(long)]
    system: Option<String>,
    /// Longest answer, tokens
    #[arg(long)]
    max_tokens: Option<u32>,
    /// Sampling temperature; 0 takes the likeliest token
    #[arg(long)]
    temperature: Option<f32>,
}

/// Runs it.
pub(super) async fn run(args: ChatArgs) -> Result<(), Failure> {
    let client = ChatClient::new(&args.url).map_err(Failure::usage)?;
    let model = match args.model {
        Some(model) => model,
        None => client.first_model().await?,
    };
    let params = ChatParams { model, max_tokens: args.max_tokens, temperature: args.temperature };
    let mut turns: Vec<Turn> = args.system.into_iter().map(|content| Turn { role: "system", content }).collect();
    if !args.message.is_empty() {
        turns.push(Turn { role: "user", content: args.message.join(" ") });
        return answer(&client, &params, &turns).await.map(drop);
    }
    converse(&client, &params, turns).await
}

/// Reads lines until the input ends. A refused question is reported and forgotten; the conversation goes on.
async fn converse(client: &ChatClient, params: &ChatParams, mut turns: Vec<Turn>) -> Result<(), Failure> {
    let interactive = std::io::stdin().is_terminal();
    let mut lines = stdin_lines()?;
    let mut last = Ok(());
    loop {
        if interactive {
            print("> ")?;
        }
        let Some(line) = lines.recv().await else { break };
        if line.trim().is_empty() {
            continue;
        }
        turns.push(Turn { role: "user", content: line });
        match answer(client, params, &turns).await {
            Ok(content) => {
                turns.push(Turn { role: "assistant", content });
                last = Ok(());
            }
            Err(failure) if interactive => {
                turns.pop();
                print(&format!("shardglm: {failure}\n"))?;
                last = Err(failure);
            }
            Err(failure) => return Err(failure),
        }
    }
    if interactive {
        print("\n")?;
        return Ok(());
    }
    last
}

/// Lines of stdin, read by a thread that ends with the process: a blocking read cannot be taken back.
fn stdin_lines() -> Result<mpsc::Receiver<String>, Failure> {
    let (send, receive) = mpsc::channel(1);
    let read = move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if send.blocking_send(line).is_err() {
                break;
            }
        }
    };
    let thread = std::thread::Builder::new().name("stdin".to_owned()).spawn(read);
    thread.map_err(|e| anyhow::anyhow!("cannot read stdin: {e}"))?;
    Ok(receive)
}

/// Prints the answer as it comes and returns it whole.
async fn answer(client: &ChatClient, params: &ChatParams, turns: &[Turn]) -> Result<String, Failure> {
    let mut pieces = client.ask(params, turns).await?;
    let mut whole = String::new();
    let mut finish = None;
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(piece) => {
                print(&piece.text)?;
                whole += &piece.text;
                finish = piece.finish.or(finish);
            }
            Err(error) => {
                print("\n")?;
                return Err(error.into());
            }
        }
    }
    print("\n")?;
    match finish.as_deref() {
        Some("length") => {
            tracing::warn!("the answer was cut at its token limit");
            Ok(whole)
        }
        Some(_) => Ok(whole),
        None => Err(anyhow::anyhow!("the answer ended without a finish reason: the connection was cut").into()),
    }
}

//! Serves the bundled model until its input ends: `cargo run --release -p farthing --example serve -- [PORT]`.

use std::io::Read;

use farthing::{ModelSource, Server, ServerOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Strangers' chat templates and constraints run in processes of their own; this starts them.
    farthing::isolate();
    let server = Server::plan(ServerOptions::new(vec![ModelSource::bundled()]))?;
    server.describe().iter().for_each(|line| println!("{line}"));
    let port = std::env::args().nth(1).map_or(Ok(0), |port| port.parse())?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let end = async {
            let input = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
            let _ = input.await;
        };
        Ok(server.run(listener, end, || println!("serving at http://{address}/v1")).await?)
    })
}

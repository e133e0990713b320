//! Connections from outside: TLS and plain, certificates that change, and the end of the server.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use farthing_serve::generation::model_pool::{ModelDescription, ModelFiles, ModelPool};
use farthing_serve::{Access, AppState, ServerLimits, Tls, listen};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring, version};

fn state() -> Arc<AppState> {
    state_with(ServerLimits { patience: Duration::from_millis(700), ..ServerLimits::default() })
}

fn state_with(bounds: ServerLimits) -> Arc<AppState> {
    let description = ModelDescription {
        name: "m".to_string(),
        aliases: Vec::new(),
        files: ModelFiles::default(),
        bytes: 1,
        context: 1,
        capability: "completion",
        created: 0,
    };
    let models = ModelPool::new(vec![description], None, false, Box::new(|_| Err("there is none".to_string())));
    AppState::new(bounds, Access { page: true, ..Access::default() }, models, None, None)
}

/// Writes a new certificate for `localhost` and its key.
fn certify(directory: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_string()]).unwrap();
    std::fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    made.cert.der().clone()
}

/// `GET /health` over TLS, trusting one certificate.
async fn over_tls(
    address: std::net::SocketAddr,
    trusted: &CertificateDer<'static>,
    old: bool,
) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let versions = if old { &version::TLS12 } else { &version::TLS13 };
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[versions])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn plain(address: std::net::SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.expect("no hang");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn tls_serves_and_reads_its_certificate_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    let first = certify(directory.path());
    let tls = Arc::new(Tls::read(&cert, &key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let end_of = async { drop(ended.await) };
    let server = tokio::spawn(listen(listener, Some(Arc::clone(&tls)), state(), end_of));

    for old in [false, true] {
        assert!(over_tls(address, &first, old).await.unwrap().starts_with("HTTP/1.1 200 OK"));
    }
    // Others than TLS clients, and those that say nothing: none hangs.
    assert!(!plain(address, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.contains("200 OK"));
    assert_eq!(plain(address, b"").await, "");
    assert_eq!(plain(address, &[0x16, 3, 1]).await, "");

    let second = certify(directory.path());
    assert!(over_tls(address, &second, false).await.is_err(), "not yet");
    tls.reload().unwrap();
    assert!(over_tls(address, &first, false).await.is_err(), "not any more");
    assert!(over_tls(address, &second, false).await.is_ok());
    // What is no certificate changes nothing.
    std::fs::write(&cert, "nothing").unwrap();
    let said = tls.reload().err().unwrap().to_string();
    assert!(said.contains("cert.pem: no certificate in it"), "{said}");
    assert!(over_tls(address, &second, true).await.is_ok());
    end.send(()).unwrap();
    assert!(server.await.unwrap().0);
}

#[test]
fn what_is_no_certificate_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    certify(directory.path());
    let refused = |cert: &str, key: &str| Tls::read(&path(cert), &path(key)).err().unwrap().to_string();
    assert!(refused("nowhere.pem", "key.pem").contains("nowhere.pem: No such file"));
    assert!(refused("key.pem", "key.pem").contains("key.pem: no certificate in it"));
    assert!(refused("cert.pem", "cert.pem").contains("cert.pem: no private key in it"));
    std::fs::rename(path("key.pem"), path("old.pem")).unwrap();
    certify(directory.path());
    let said = refused("cert.pem", "old.pem");
    assert!(said.contains("cert.pem and ") && said.contains("old.pem: "), "{said}");
    std::fs::write(path("long.pem"), vec![b'x'; (1 << 20) + 1]).unwrap();
    assert!(refused("long.pem", "key.pem").contains("more than 1048576 bytes"));
}

#[tokio::test]
async fn a_server_without_a_model_is_alive_but_not_ready() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let state = state();
    tokio::spawn(listen(listener, None, Arc::clone(&state), std::future::pending::<()>()));
    assert!(state.start().await.unwrap_err().to_string().contains("m could not be loaded; the server's log says why"));
    let get = async |path: &str| {
        plain(address, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await
    };
    assert!(get("/health").await.starts_with("HTTP/1.1 200"));
    let not = get("/ready").await;
    assert!(not.starts_with("HTTP/1.1 503") && not.contains("retry-after: 1"), "{not}");
    let listed = get("/v1/models").await;
    assert!(listed.contains(r#""id":"m""#) && listed.contains(r#""state":"absent""#), "{listed}");
    let body = r#"{"model": "m", "prompt": "x"}"#;
    let asked = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let failed = plain(address, asked.as_bytes()).await;
    assert!(
        failed.starts_with("HTTP/1.1 503") && failed.contains("m could not be loaded; the server's log says why"),
        "{failed}"
    );
}

/// A connection from this address of the loopback network.
async fn from(source: [u8; 4], address: std::net::SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    socket.connect(address).await.unwrap()
}

fn head(length: usize) -> String {
    format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
}

async fn answered(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    let _ = read.expect("an answer soon");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Who says nothing, or never sends the body that was announced, does not shut out others.
#[tokio::test]
async fn silent_connections_give_way() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let bounds = ServerLimits { patience: Duration::from_secs(60), connections: 4, ..ServerLimits::default() };
    tokio::spawn(listen(listener, None, state_with(bounds), std::future::pending::<()>()));
    for request in [String::new(), "GET /health HTTP/1.1\r\n".to_string(), head(50) + "{"] {
        let mut silent = Vec::new();
        for _ in 0..6 {
            let mut stream = from([127, 0, 0, 2], address).await;
            stream.write_all(request.as_bytes()).await.unwrap();
            silent.push(stream);
        }
        for source in [[127, 0, 0, 1], [127, 0, 0, 2]] {
            let mut stream = from(source, address).await;
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
            assert!(answered(&mut stream).await.starts_with("HTTP/1.1 200"), "{request:?}");
        }
    }
}

/// Who reads nothing of what it asked for, on any number of connections, does not shut out others for long.
#[tokio::test]
async fn who_does_not_read_gives_way() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let bounds = ServerLimits { patience: Duration::from_secs(600), connections: 4, ..ServerLimits::default() };
    tokio::spawn(listen(listener, None, state_with(bounds), std::future::pending::<()>()));
    let mut deaf = Vec::new();
    for _ in 0..6 {
        let mut stream = from([127, 0, 0, 2], address).await;
        // 50 MB, more than the system's buffers take.
        let requests = b"GET /page/app.js HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
        stream.write_all(&requests).await.unwrap();
        let mut some = [0; 15];
        if deaf.len() < 4 {
            stream.read_exact(&mut some).await.unwrap();
            assert_eq!(&some, b"HTTP/1.1 200 OK");
        }
        deaf.push(stream);
    }
    for source in [[127, 0, 0, 1], [127, 0, 0, 2]] {
        let mut stream = from(source, address).await;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let read = tokio::time::timeout(Duration::from_secs(120), stream.read_to_string(&mut answer)).await;
        assert!(read.is_ok_and(|read| read.is_ok()) && answer.starts_with("HTTP/1.1 200"), "{source:?}: {answer}");
    }
}

/// Bodies that are announced take no room; those that come slowly give it back to who has less.
#[tokio::test]
async fn announced_and_unfinished_bodies_do_not_block_others() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let bounds = ServerLimits { patience: Duration::from_secs(60), bodies_bytes: 1 << 20, ..ServerLimits::default() };
    tokio::spawn(listen(listener, None, state_with(bounds), std::future::pending::<()>()));
    let mut announced = Vec::new();
    for _ in 0..16 {
        let mut stream = from([127, 0, 0, 2], address).await;
        stream.write_all((head(1 << 20) + "{").as_bytes()).await.unwrap();
        announced.push(stream);
    }
    let body = r#"{"model": "m", "prompt": "x"}"#;
    // What is asked for reaches the model, which is not there.
    let mut other = from([127, 0, 0, 2], address).await;
    other.write_all((head(body.len()) + body).as_bytes()).await.unwrap();
    assert!(answered(&mut other).await.contains("m could not be loaded"));
    // All the room taken, but for the last byte of each.
    let mut filled = Vec::new();
    for _ in 0..4 {
        let mut stream = from([127, 0, 0, 2], address).await;
        stream.write_all(head((256 << 10) + 1).as_bytes()).await.unwrap();
        stream.write_all(&vec![b' '; (256 << 10) - 8]).await.unwrap();
        filled.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let large = format!("{}{body}", " ".repeat(100 << 10));
    let mut other = from([127, 0, 0, 1], address).await;
    other.write_all((head(large.len()) + &large).as_bytes()).await.unwrap();
    assert!(answered(&mut other).await.contains("m could not be loaded"));
    let given_up = answered(&mut filled[3]).await;
    assert!(given_up.starts_with("HTTP/1.1 503") && given_up.contains("\"overloaded\""), "{given_up}");
    assert!(given_up.contains("retry-after: "), "{given_up}");
}

/// What gives its length twice is refused and ends its connection, wherever in it it stands; what is after it is never a request.
#[tokio::test]
async fn a_request_of_two_lengths_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(listen(listener, None, state(), std::future::pending::<()>()));
    let (post, chunks) =
        ("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n", "0\r\n\r\n");
    let hidden = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let (length, coding) = ("Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n");
    for both in [format!("{length}{coding}"), format!("{coding}{length}"), format!("{coding}Content-Length: 0\r\n")] {
        let answer = plain(address, format!("{post}{both}\r\n{chunks}{hidden}").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("\"two_lengths\""), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
        // Also behind others on one connection.
        let health = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let one = format!("{post}{coding}\r\n2\r\n{{}}\r\n{chunks}");
        let answer = plain(address, format!("{health}{one}{post}{both}\r\n{chunks}{hidden}").as_bytes()).await;
        let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|part| &part[..3]).collect();
        assert_eq!(statuses, ["200", "503", "400"], "{answer}");
    }
    // However those before them are padded, and whatever their trailers look like.
    let (spaces, zeros, bytes) = (" ".repeat(200), "0".repeat(200), hidden.len());
    for one in [
        format!("{post}Content-Length:{spaces}{bytes}\r\n\r\n{hidden}"),
        format!("{post}Content-Length: {zeros}{bytes}\r\n\r\n{hidden}"),
        format!("{post}{coding}\r\n{zeros}{bytes:x}\r\n{hidden}\r\n{chunks}"),
        format!("{post}{coding}\r\n2\r\n{{}}\r\n0\r\nX: a\n\nGET / HTTP/1.1\n\n\r\n\r\n"),
    ] {
        let answer = plain(address, format!("{one}{post}{length}{coding}\r\n{chunks}{hidden}").as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{one:?}: {answer}");
        assert!(answer.contains("\"two_lengths\""), "{one:?}: {answer}");
    }
    for host in ["user@localhost", "localhost:", "localhost:0", "localhost:x", "local$host"] {
        let answer =
            plain(address, format!("GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())
                .await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("\"invalid_host\""), "{host}: {answer}");
    }
}

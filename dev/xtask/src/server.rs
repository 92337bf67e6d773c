//! HTTP on loopback: what the documentation's server and the API's proxy have in common.

use std::{convert::Infallible, error, io, net::TcpListener, thread};

use http_body_util::{Either, Full};
use hyper::{
    Request, Response,
    body::{Body, Bytes, Incoming},
    client::conn::http1 as client,
    server::conn::http1 as server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::say;

/// The body of an answer: ours, or one that is passed on.
pub(crate) type AnswerBody = Either<Full<Bytes>, Incoming>;

/// Why a request could not be passed on.
pub(crate) type Error = Box<dyn error::Error + Send + Sync>;

/// Answers requests, on a thread of its own, until the process ends.
pub(crate) fn serve<F>(
    listener: TcpListener,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) where
    F: Future<Output = Response<AnswerBody>> + Send + 'static,
{
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Err(error) = runtime.and_then(|runtime| runtime.block_on(accept(listener, answer))) {
            say(format_args!("no requests are taken any more: {error}"));
        }
    });
}

async fn accept<F>(
    listener: TcpListener,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) -> io::Result<()>
where
    F: Future<Output = Response<AnswerBody>> + Send + 'static,
{
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (client, _) = listener.accept().await?;
        let answer = answer.clone();
        let service = service_fn(move |request| {
            let answer = answer(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        // A client that goes away ends its own connection.
        tokio::spawn(server::Builder::new().serve_connection(TokioIo::new(client), service));
    }
}

/// Sends a request to another port.
pub(crate) async fn pass_on<B>(request: Request<B>, port: u16) -> Result<Response<Incoming>, Error>
where
    B: Body<Data: Send, Error: Into<Error>> + Send + 'static,
{
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

//! HTTP and the protocols of AWS in it: a request is read, its fate is looked up, and a reply is written.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fs::OpenOptions,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use ciborium::cbor;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    http::HeaderValue,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{
    FaultKind,
    elb::State,
    request::{Asked, Protocol, Refusal, element, refuse},
};
use crate::{temporary, tls::Handshakes};

pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<(TlsAcceptor, Arc<Handshakes>)>,
    state: Arc<Mutex<State>>,
) -> Infallible {
    // Aborting this task drops the set, and that ends the connections.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a live listener");
        // Closing such a socket sends a RST: a reset shall be one.
        stream.set_zero_linger().expect("an open socket");
        stream.set_nodelay(true).expect("an open socket");
        let (state, tls) = (state.clone(), tls.clone());
        connections.spawn(async move {
            match tls {
                None => speak(stream, state).await,
                Some((acceptor, handshakes)) => {
                    if let Some(stream) = handshakes.accept(&acceptor, stream).await {
                        speak(stream, state).await;
                    }
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin, state: Arc<Mutex<State>>) {
    let service = service_fn(move |request| answer(state.clone(), request));
    // An error is a caller that left or a reset of our own making.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| reset())?.to_bytes();
    let mut asked = Asked::read(&head, body);
    if !lock(&state).asked_by_others {
        note_action(asked.service, &asked.action);
    }
    let fate = lock(&state).arrive(&mut asked);

    match fate.end {
        Some(FaultKind::Hang) => {
            hang(&state);
            std::future::pending().await
        }
        Some(FaultKind::ResetBefore) => return Err(reset()),
        _ => {}
    }
    // As at AWS, what has arrived is carried out even if the caller goes away: hence a task of its own.
    let handling = tokio::spawn(async move {
        pause(fate.before).await;
        if let (Some(FaultKind::DeleteGroup), Some(arn)) = (&fate.end, asked.arns.first()) {
            lock(&state).delete_group(arn);
        }
        let outcome = match &fate.end {
            Some(FaultKind::Error { status, code, message }) => Err(refuse(*status, code, message.clone())),
            Some(FaultKind::Body { .. }) => Ok(String::new()),
            Some(FaultKind::RefuseTarget(id)) => {
                Err(refuse(400, "ValidationError", format!("The target '{id}' is not in a state that allows this")))
            }
            _ => lock(&state).handle(&asked),
        };
        // A reply that says nothing of what was asked for comes of a call that was not carried out.
        let error = match &fate.end {
            Some(FaultKind::Body { .. }) => Some("not carried out".to_owned()),
            _ => outcome.as_ref().err().map(|refusal| refusal.code.clone()),
        };
        let reply = match &fate.end {
            Some(FaultKind::Body { status, body }) => raw(*status, "text/xml", body.clone()),
            _ => reply(&asked, outcome),
        };
        pause(fate.after).await;
        match fate.end {
            Some(FaultKind::LoseReply) => {
                hang(&state);
                std::future::pending().await
            }
            Some(FaultKind::ResetAfter) => return Err(reset()),
            _ => {}
        }
        let mut state = lock(&state);
        let mut calls = state.calls.iter_mut();
        if let Some(call) = calls.find(|call| call.number == asked.number) {
            call.status = reply.status().as_u16();
            call.error = error;
        }
        Ok(reply)
    });
    handling.await.map_err(|_| reset())?
}

async fn pause(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}

fn hang(state: &Mutex<State>) {
    lock(state).hanging.send_modify(|hanging| *hanging += 1);
}

pub(super) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("nothing panics while it holds the lock")
}

fn reply(asked: &Asked, outcome: Result<String, Refusal>) -> Response<Full<Bytes>> {
    let status = outcome.as_ref().map_or_else(|refusal| refusal.status, |_| 200);
    let fault = if status < 500 { "Sender" } else { "Receiver" };
    if asked.protocol == Protocol::Json {
        let body = match &outcome {
            Ok(result) => result.clone(),
            Err(refusal) => json!({"__type": refusal.code, "Message": refusal.message}).to_string(),
        };
        return raw(status, "application/x-amz-json-1.1", body);
    }
    if asked.protocol == Protocol::Cbor {
        let value = match &outcome {
            Ok(_) => cbor!({}),
            Err(refusal) => cbor!({ "__type" => refusal.code, "message" => refusal.message }),
        };
        let mut body = Vec::new();
        ciborium::into_writer(&value.expect("plain strings"), &mut body).expect("a Vec grows");
        let mut reply = raw(status, "application/cbor", body);
        let headers = reply.headers_mut();
        headers.insert("smithy-protocol", HeaderValue::from_static("rpc-v2-cbor"));
        if let Err(Refusal { code, .. }) = outcome {
            let error = format!("{code};{fault}").parse().expect("a plain code");
            headers.insert("x-amzn-query-error", error);
        }
        return reply;
    }
    let id = format!("00000000-0000-4000-8000-{:012}", asked.number);
    let namespace = "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/";
    let body = match outcome {
        Ok(result) => {
            let action = &asked.action;
            format!(
                "<{action}Response xmlns=\"{namespace}\"><{action}Result>{result}</{action}Result>\
                 <ResponseMetadata><RequestId>{id}</RequestId></ResponseMetadata></{action}Response>"
            )
        }
        Err(Refusal { code, message, .. }) => format!(
            "<ErrorResponse xmlns=\"{namespace}\"><Error><Type>{fault}</Type>{}{}</Error>\
             <RequestId>{id}</RequestId></ErrorResponse>",
            element("Code", code),
            element("Message", message)
        ),
    };
    raw(status, "text/xml", body)
}

fn raw(status: u16, content_type: &str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header("content-type", content_type)
        .body(Full::new(body.into()))
        .expect("a valid status")
}

/// As the error of a service it makes hyper drop the connection.
fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

/// Adds the action to the list of all that the function asked for in any test, which `tests/e2e` holds against the
/// template's policy: `target/tmp/aws-actions`, a line for each action and test process.
fn note_action(service: &str, action: &str) {
    static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let prefix = match service {
        "monitoring" => "cloudwatch",
        "tagging" => "tag",
        service => service,
    };
    let line = format!("{prefix}:{action}\n");
    if SEEN.lock().expect("no test panics while it holds this").insert(line.clone()) {
        let file = OpenOptions::new().create(true).append(true).open(temporary("aws-actions"));
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the target folder can be written to");
    }
}

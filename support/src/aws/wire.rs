//! HTTP and the protocols of AWS in it: a request is read, its fate is looked up, and a reply is written.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fmt::Debug,
    fs::OpenOptions,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use ciborium::{Value, cbor};
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

use super::{
    elb,
    fault::FaultKind,
    request::{Asked, Protocol, Refusal, element, refuse},
    state::State,
};
use crate::{files::temporary, tls::Handshakes};

pub(super) async fn serve(listener: TcpListener, tls: Option<Arc<Handshakes>>, state: Arc<Mutex<State>>) -> Infallible {
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
                Some(handshakes) => {
                    if let Some(stream) = handshakes.accept(stream).await {
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
        Some(FaultKind::Hang) => return hang(&state).await,
        Some(FaultKind::ResetBefore) => return Err(reset()),
        _ => {}
    }
    // As at AWS, what has arrived is carried out even if the caller goes away: hence a task of its own.
    let handling = tokio::spawn(async move {
        pause(fate.before).await;
        if let (Some(FaultKind::DeleteGroup), Some(arn)) = (&fate.end, asked.arns.first()) {
            lock(&state).delete_group(arn);
        }
        // The code of the error that is replied, and the reply.
        let (error, reply) = match &fate.end {
            // One that says nothing of what was asked for comes of a call that was not carried out.
            Some(FaultKind::Body { status, body }) => {
                (Some("not carried out".to_owned()), raw(*status, XML, body.clone()))
            }
            Some(FaultKind::Error { status, code, message }) => refused(&asked, refuse(*status, code, message.clone())),
            Some(FaultKind::RefuseTarget(id)) => {
                let message = format!("The target '{id}' is not in a state that allows this");
                refused(&asked, refuse(400, "ValidationError", message))
            }
            _ => {
                let outcome = elb::handle(&mut lock(&state), &asked);
                outcome.map_or_else(|refusal| refused(&asked, refusal), |result| (None, replied(&asked, &result)))
            }
        };
        pause(fate.after).await;
        match fate.end {
            Some(FaultKind::LoseReply) => return hang(&state).await,
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

/// Leaves a request without a reply, for good.
async fn hang<T>(state: &Mutex<State>) -> T {
    lock(state).hanging.send_modify(|hanging| *hanging += 1);
    std::future::pending().await
}

pub(super) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("nothing panics while it holds the lock")
}

/// The reply of a request that was carried out.
fn replied(asked: &Asked, result: &str) -> Response<Full<Bytes>> {
    match asked.protocol {
        Protocol::Cbor => cbor_reply(200, &cbor!({})),
        Protocol::Json => raw(200, JSON, result.to_owned()),
        Protocol::Query => {
            let Asked { action, number, .. } = asked;
            let body = format!(
                "<{action}Response xmlns=\"{NAMESPACE}\"><{action}Result>{result}</{action}Result><ResponseMetadata>{}\
                 </ResponseMetadata></{action}Response>",
                request_id(*number)
            );
            raw(200, XML, body)
        }
    }
}

/// The code of a refusal, and its reply.
fn refused(asked: &Asked, refusal: Refusal) -> (Option<String>, Response<Full<Bytes>>) {
    let Refusal { status, code, message, .. } = refusal;
    let fault = if status < 500 { "Sender" } else { "Receiver" };
    let reply = match asked.protocol {
        Protocol::Cbor => {
            let mut reply = cbor_reply(status, &cbor!({ "__type" => code, "message" => message }));
            let error = format!("{code};{fault}").parse().expect("a plain code");
            reply.headers_mut().insert("x-amzn-query-error", error);
            reply
        }
        Protocol::Json => raw(status, JSON, json!({"__type": code, "Message": message}).to_string()),
        Protocol::Query => {
            let body = format!(
                "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>{fault}</Type>{}{}</Error>{}</ErrorResponse>",
                element("Code", &code),
                element("Message", message),
                request_id(asked.number)
            );
            raw(status, XML, body)
        }
    };
    (Some(code), reply)
}

const JSON: &str = "application/x-amz-json-1.1";
const NAMESPACE: &str = "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/";
const XML: &str = "text/xml";

fn request_id(number: u64) -> String {
    element("RequestId", format_args!("00000000-0000-4000-8000-{number:012}"))
}

fn cbor_reply<E: Debug>(status: u16, value: &Result<Value, E>) -> Response<Full<Bytes>> {
    let mut body = Vec::new();
    ciborium::into_writer(value.as_ref().expect("plain strings"), &mut body).expect("a Vec grows");
    let mut reply = raw(status, "application/cbor", body);
    reply.headers_mut().insert("smithy-protocol", HeaderValue::from_static("rpc-v2-cbor"));
    reply
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

//! The Lambda service as the function's process sees it: [`RuntimeApi`] hands out invocations, [`Bootstrap`] is the
//! process, in the environment that Lambda gives it.

use std::{
    collections::HashMap,
    convert::Infallible,
    ffi::OsStr,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Mutex as AsyncMutex, mpsc, oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

const FUNCTION_ARN: &str = "arn:aws:lambda:eu-central-1:123456789012:function:test";

/// How long a process may take to start, to stop or to write a line.
const PATIENCE: Duration = Duration::from_secs(20);

/// The Runtime API of one execution environment, which has one process.
pub struct RuntimeApi {
    address: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

/// What an invocation failed with, as Lambda's caller sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionError {
    pub error_type: String,
    pub error_message: String,
}

impl FunctionError {
    fn new(error_type: &str, error_message: String) -> Self {
        Self { error_type: error_type.to_owned(), error_message }
    }

    fn from_body(body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let field = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        Self { error_type: field("errorType"), error_message: field("errorMessage") }
    }
}

type Outcome = Result<Value, FunctionError>;

impl RuntimeApi {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (queue, waiting) = mpsc::unbounded_channel();
        let state = Arc::new(State {
            queue,
            waiting: AsyncMutex::new(waiting),
            running: Mutex::default(),
            is_polled: watch::Sender::new(false),
            init_error: watch::Sender::new(None),
        });
        let mut tasks = JoinSet::new();
        let served = state.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = served.clone();
                connections.spawn(async move {
                    let service = service_fn(|request| state.respond(request));
                    // An error is the process's end of the connection.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, state, _tasks: tasks }
    }

    /// The value of `AWS_LAMBDA_RUNTIME_API`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Invokes the function and waits for what it returns, or for what its start failed with. As in Lambda, `limit` is the
    /// function's timeout, and invocations made at the same time run one after the other.
    pub async fn invoke(&self, payload: Value, limit: Duration) -> Outcome {
        let (taken, wait_for_taken) = oneshot::channel();
        let (outcome, wait_for_outcome) = oneshot::channel();
        assert!(self.state.queue.send(Invocation { payload, limit, taken, outcome }).is_ok());
        let mut init_error = self.state.init_error.subscribe();
        let request_id = tokio::select! {
            request_id = wait_for_taken => request_id.unwrap(),
            Ok(error) = init_error.wait_for(Option::is_some) => return Err(error.clone().unwrap()),
            () = sleep(PATIENCE) => panic!("the function never asked for work"),
        };
        if let Ok(outcome) = timeout(limit, wait_for_outcome).await {
            return outcome.unwrap();
        }
        self.state.running.lock().unwrap().remove(&request_id);
        let seconds = limit.as_secs_f64();
        let message = format!("RequestId: {request_id} Error: Task timed out after {seconds:.2} seconds");
        Err(FunctionError::new("Sandbox.Timedout", message))
    }

    /// Until the process asks for work: it has started, or is done with the last invocation.
    pub async fn wait_for_poll(&self) {
        let mut is_polled = self.state.is_polled.subscribe();
        let poll = timeout(PATIENCE, is_polled.wait_for(|is_polled| *is_polled)).await;
        poll.expect("the function never asked for work").unwrap();
    }
}

struct Invocation {
    payload: Value,
    limit: Duration,
    taken: oneshot::Sender<String>,
    outcome: oneshot::Sender<Outcome>,
}

struct State {
    queue: mpsc::UnboundedSender<Invocation>,
    waiting: AsyncMutex<mpsc::UnboundedReceiver<Invocation>>,
    running: Mutex<HashMap<String, oneshot::Sender<Outcome>>>,
    is_polled: watch::Sender<bool>,
    init_error: watch::Sender<Option<FunctionError>>,
}

impl State {
    /// The process is dead, and with it what it was about.
    fn exited(&self) {
        for (request_id, caller) in self.running.lock().unwrap().drain() {
            let message = format!("RequestId: {request_id} Error: Runtime exited");
            // A caller that has given up does not wait for it.
            let _ = caller.send(Err(FunctionError::new("Runtime.ExitError", message)));
        }
    }

    async fn respond(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        // A process that dies while it sends leaves an empty body.
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let route: Vec<_> = head.uri.path().strip_prefix("/2018-06-01/runtime/").unwrap_or("").split('/').collect();
        Ok(match (head.method, &route[..]) {
            (Method::GET, ["invocation", "next"]) => self.next().await,
            (Method::POST, ["invocation", request_id, "response"]) => {
                let outcome = serde_json::from_slice(&body);
                let wrong = |error: serde_json::Error| FunctionError::new("Runtime.InvalidResponse", error.to_string());
                self.accept(request_id, outcome.map_err(wrong))
            }
            (Method::POST, ["invocation", request_id, "error"]) => {
                self.accept(request_id, Err(FunctionError::from_body(&body)))
            }
            (Method::POST, ["init", "error"]) => {
                self.init_error.send_replace(Some(FunctionError::from_body(&body)));
                status(202, "OK")
            }
            _ => status(404, "no such path"),
        })
    }

    async fn next(&self) -> Response<Full<Bytes>> {
        self.is_polled.send_replace(true);
        // The channel cannot be closed: its sender is beside it.
        let invocation = self.waiting.lock().await.recv().await.unwrap();
        self.is_polled.send_replace(false);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let request_id = format!("{:08x}-0000-4000-8000-{:012x}", now.as_secs(), now.as_nanos() & 0xffff_ffff_ffff);
        let mut running = self.running.lock().unwrap();
        running.insert(request_id.clone(), invocation.outcome);
        // A caller that has given up does not wait for it.
        let _ = invocation.taken.send(request_id.clone());
        let deadline = (now + invocation.limit).as_millis();
        let trace_id = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=3ed3989a1b2c4d5e;Sampled=0";
        Response::builder()
            .header("content-type", "application/json")
            .header("lambda-runtime-aws-request-id", request_id)
            .header("lambda-runtime-deadline-ms", deadline.to_string())
            .header("lambda-runtime-invoked-function-arn", FUNCTION_ARN)
            .header("lambda-runtime-trace-id", trace_id)
            .body(Full::from(invocation.payload.to_string()))
            .unwrap()
    }

    /// Hands an outcome to its caller, where the invocation is still running.
    fn accept(&self, request_id: &str, outcome: Outcome) -> Response<Full<Bytes>> {
        let caller = self.running.lock().unwrap().remove(request_id);
        if caller.is_some_and(|caller| caller.send(outcome).is_ok()) {
            status(202, "OK")
        } else {
            status(400, "InvalidRequestID")
        }
    }
}

fn status(code: u16, text: &str) -> Response<Full<Bytes>> {
    Response::builder().status(code).body(Full::from(json!({ "status": text }).to_string())).unwrap()
}

/// The function's process. It is killed when this value goes.
pub struct Bootstrap {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Bootstrap {
    /// `binary` is `env!("CARGO_BIN_EXE_bootstrap")`; `environment` comes after Lambda's own and may
    /// replace it. Nothing of the test's environment reaches the process.
    pub fn start<K, V>(binary: &str, api: &RuntimeApi, environment: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: AsRef<OsStr>,
        V: AsRef<OsStr>,
    {
        let mut child = Command::new(binary)
            .env_clear()
            .env("AWS_LAMBDA_RUNTIME_API", api.address().to_string())
            .envs(LAMBDA_ENVIRONMENT)
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let state = api.state.clone();
        // A connection tells nothing: the process closes one that has been idle for as long as a long watch lasts.
        let of_stdout = read_lines(child.stdout.take().unwrap(), lines.clone(), move || state.exited());
        let of_stderr = read_lines(child.stderr.take().unwrap(), lines.clone(), || ());
        Self { child, lines, readers: vec![of_stdout, of_stderr] }
    }

    /// Of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Stops the process, as Lambda freezes it between two invocations: it does nothing, and time goes on.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(id, signal).expect("a process of our own");
    }

    /// What it wrote to stdout and stderr.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The first line that holds this text.
    pub async fn wait_for_line(&self, text: &str) -> String {
        let search = wait_for(|| self.lines().into_iter().find(|line| line.contains(text)));
        search.await.unwrap_or_else(|| panic!("no line with {text:?} in {:?}", self.lines()))
    }

    /// Until the process ends of its own accord; then all its lines are there.
    pub async fn wait_for_exit(&mut self) -> ExitStatus {
        let status = wait_for(|| self.child.try_wait().unwrap()).await.expect("the function's process goes on");
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        status
    }
}

/// Until there is one.
async fn wait_for<T>(mut find: impl FnMut() -> Option<T>) -> Option<T> {
    for _ in 0..PATIENCE.as_millis() / 10 {
        if let Some(found) = find() {
            return Some(found);
        }
        sleep(Duration::from_millis(10)).await;
    }
    None
}

impl Drop for Bootstrap {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.readers.drain(..).for_each(|reader| drop(reader.join()));
    }
}

/// What Lambda sets for an OS-only runtime, with credentials that are valid nowhere.
const LAMBDA_ENVIRONMENT: [(&str, &str); 17] = [
    ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
    ("AWS_DEFAULT_REGION", "eu-central-1"),
    ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
    ("AWS_LAMBDA_FUNCTION_NAME", "test"),
    ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
    ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
    ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/test"),
    ("AWS_LAMBDA_LOG_STREAM_NAME", "2026/01/01/[$LATEST]0123456789abcdef0123456789abcdef"),
    ("AWS_REGION", "eu-central-1"),
    ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
    ("AWS_SESSION_TOKEN", "session"),
    ("LAMBDA_RUNTIME_DIR", "/var/runtime"),
    ("LAMBDA_TASK_ROOT", "/var/task"),
    ("LANG", "en_US.UTF-8"),
    ("PATH", "/usr/local/bin:/usr/bin/:/bin:/opt/bin"),
    ("TZ", ":UTC"),
    ("_HANDLER", "bootstrap"),
];

/// Reads until the process ends, which `ended` hears of.
fn read_lines(
    stream: impl Read + Send + 'static,
    lines: Arc<Mutex<Vec<String>>>,
    ended: impl FnOnce() + Send + 'static,
) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            lines.lock().unwrap().push(line);
        }
        ended();
    })
}

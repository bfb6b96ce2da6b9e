//! The Lambda service as the function's process sees it: [`RuntimeApi`] hands out invocations,
//! [`Bootstrap`] is the process, in the environment that Lambda gives it.

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
    Method, Request, Response, StatusCode,
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
    net::{TcpListener, TcpStream},
    sync::{Mutex as AsyncMutex, mpsc, oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

const FUNCTION_ARN: &str = "arn:aws:lambda:eu-central-1:123456789012:function:test";

/// How long a process may take to start, to stop or to write a line.
const PATIENCE: Duration = Duration::from_secs(20);

/// The Runtime API of one execution environment.
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

impl RuntimeApi {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (queue, waiting) = mpsc::unbounded_channel();
        let state = Arc::new(State {
            queue,
            waiting: AsyncMutex::new(waiting),
            running: Mutex::default(),
            open_polls: watch::Sender::new(0),
            init_error: watch::Sender::new(None),
        });

        let mut tasks = JoinSet::new();
        tasks.spawn({
            let state = state.clone();
            async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(state.clone().serve(stream));
                }
            }
        });
        Self { address, state, _tasks: tasks }
    }

    /// The value of `AWS_LAMBDA_RUNTIME_API`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Invokes the function and waits for what it returns. As in Lambda, `limit` is the function's
    /// timeout, and invocations made at the same time run one after the other.
    pub async fn invoke(&self, payload: Value, limit: Duration) -> Result<Value, FunctionError> {
        let (taken, wait_for_taken) = oneshot::channel();
        let (outcome, wait_for_outcome) = oneshot::channel();
        let invocation = Invocation { payload, limit, taken, outcome };
        assert!(self.state.queue.send(invocation).is_ok());

        let mut init_error = self.state.init_error.subscribe();
        let request_id = tokio::select! {
            request_id = wait_for_taken => request_id.unwrap(),
            Ok(error) = init_error.wait_for(Option::is_some) => {
                return Err(error.clone().unwrap());
            }
            () = sleep(PATIENCE) => panic!("the function never asked for work"),
        };
        match timeout(limit, wait_for_outcome).await {
            Ok(outcome) => outcome.unwrap(),
            Err(_) => {
                self.state.running.lock().unwrap().remove(&request_id);
                Err(FunctionError {
                    error_type: "Sandbox.Timedout".into(),
                    error_message: format!(
                        "RequestId: {request_id} Error: Task timed out after {:.2} seconds",
                        limit.as_secs_f64()
                    ),
                })
            }
        }
    }

    /// How the start ended: with this error, or with the process asking for work.
    pub async fn init_error(&self) -> Option<FunctionError> {
        let mut init_error = self.state.init_error.subscribe();
        tokio::select! {
            Ok(error) = init_error.wait_for(Option::is_some) => error.clone(),
            () = self.wait_for_poll() => None,
        }
    }

    /// Until the process asks for work: it has started, or is done with the last invocation.
    pub async fn wait_for_poll(&self) {
        let mut open_polls = self.state.open_polls.subscribe();
        timeout(PATIENCE, open_polls.wait_for(|polls| *polls > 0))
            .await
            .expect("the function never asked for work")
            .unwrap();
    }
}

struct Invocation {
    payload: Value,
    limit: Duration,
    taken: oneshot::Sender<String>,
    outcome: oneshot::Sender<Result<Value, FunctionError>>,
}

struct State {
    queue: mpsc::UnboundedSender<Invocation>,
    waiting: AsyncMutex<mpsc::UnboundedReceiver<Invocation>>,
    running: Mutex<HashMap<String, oneshot::Sender<Result<Value, FunctionError>>>>,
    open_polls: watch::Sender<usize>,
    init_error: watch::Sender<Option<FunctionError>>,
}

impl State {
    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(|request| self.respond(request));
        // An error is the process's end of the connection.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    /// The process is dead, and with it what it was about.
    fn exited(&self) {
        for (request_id, caller) in self.running.lock().unwrap().drain() {
            let error_message = format!("RequestId: {request_id} Error: Runtime exited");
            // A caller that has given up does not wait for it.
            let _ = caller.send(Err(FunctionError { error_type: "Runtime.ExitError".into(), error_message }));
        }
    }

    async fn respond(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let path = request.uri().path().to_owned();
        let path = path.strip_prefix("/2018-06-01/runtime/").unwrap_or("");
        let route: Vec<_> = path.split('/').collect();
        Ok(match (request.method(), &route[..]) {
            (&Method::GET, ["invocation", "next"]) => self.next().await,
            (&Method::POST, ["invocation", request_id, "response"]) => {
                let body = body(request).await;
                let outcome = serde_json::from_slice(&body).map_err(|error| FunctionError {
                    error_type: "Runtime.InvalidResponse".into(),
                    error_message: error.to_string(),
                });
                self.accept(request_id, outcome)
            }
            (&Method::POST, ["invocation", request_id, "error"]) => {
                let error = FunctionError::from_body(&body(request).await);
                self.accept(request_id, Err(error))
            }
            (&Method::POST, ["init", "error"]) => {
                let error = FunctionError::from_body(&body(request).await);
                self.init_error.send_replace(Some(error));
                status(StatusCode::ACCEPTED, "OK")
            }
            _ => status(StatusCode::NOT_FOUND, "no such path"),
        })
    }

    async fn next(&self) -> Response<Full<Bytes>> {
        let poll = OpenPoll::new(&self.open_polls);
        // The channel cannot be closed: its sender is beside it.
        let invocation = self.waiting.lock().await.recv().await.unwrap();
        drop(poll);

        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let request_id = format!("{:08x}-0000-4000-8000-{:012x}", now.as_secs(), now.as_nanos() & 0xffff_ffff_ffff);
        let mut running = self.running.lock().unwrap();
        running.insert(request_id.clone(), invocation.outcome);
        // A caller that has given up does not wait for it.
        let _ = invocation.taken.send(request_id.clone());

        let deadline = (now + invocation.limit).as_millis();
        Response::builder()
            .header("content-type", "application/json")
            .header("lambda-runtime-aws-request-id", request_id)
            .header("lambda-runtime-deadline-ms", deadline.to_string())
            .header("lambda-runtime-invoked-function-arn", FUNCTION_ARN)
            .header(
                "lambda-runtime-trace-id",
                "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=3ed3989a1b2c4d5e;Sampled=0",
            )
            .body(Full::from(invocation.payload.to_string()))
            .unwrap()
    }

    fn accept(&self, request_id: &str, outcome: Result<Value, FunctionError>) -> Response<Full<Bytes>> {
        if self.finish(request_id, outcome) {
            status(StatusCode::ACCEPTED, "OK")
        } else {
            status(StatusCode::BAD_REQUEST, "InvalidRequestID")
        }
    }

    /// Whether the invocation was still running.
    fn finish(&self, request_id: &str, outcome: Result<Value, FunctionError>) -> bool {
        let caller = self.running.lock().unwrap().remove(request_id);
        caller.is_some_and(|caller| caller.send(outcome).is_ok())
    }
}

/// Counts a poll for as long as it is open: until there is work, or the process hangs up.
struct OpenPoll<'a>(&'a watch::Sender<usize>);

impl<'a> OpenPoll<'a> {
    fn new(open_polls: &'a watch::Sender<usize>) -> Self {
        open_polls.send_modify(|polls| *polls += 1);
        Self(open_polls)
    }
}

impl Drop for OpenPoll<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|polls| *polls -= 1);
    }
}

impl FunctionError {
    fn from_body(body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let field = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        Self { error_type: field("errorType"), error_message: field("errorMessage") }
    }
}

async fn body(request: Request<Incoming>) -> Bytes {
    // A process that dies while it sends leaves an empty body.
    let body = request.into_body().collect().await;
    body.map(http_body_util::Collected::to_bytes).unwrap_or_default()
}

fn status(code: StatusCode, text: &str) -> Response<Full<Bytes>> {
    Response::builder().status(code).body(Full::from(json!({ "status": text }).to_string())).unwrap()
}

/// The function's process. It is killed when this value goes.
pub struct Bootstrap {
    child: Child,
    stdout: Arc<Mutex<Vec<String>>>,
    stderr: Arc<Mutex<Vec<String>>>,
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
        let state = api.state.clone();
        // A connection tells nothing: the process closes one that has been idle for as long as a long watch lasts.
        let (stdout, stdout_reader) = read_lines(child.stdout.take().unwrap(), move || state.exited());
        let (stderr, stderr_reader) = read_lines(child.stderr.take().unwrap(), || ());
        Self { child, stdout, stderr, readers: vec![stdout_reader, stderr_reader] }
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

    pub fn stdout(&self) -> Vec<String> {
        self.stdout.lock().unwrap().clone()
    }

    pub fn stderr(&self) -> Vec<String> {
        self.stderr.lock().unwrap().clone()
    }

    /// The first line, on stdout or stderr, that holds this text.
    pub async fn wait_for_line(&self, text: &str) -> String {
        let search = async {
            loop {
                let lines = [self.stdout(), self.stderr()].concat();
                if let Some(line) = lines.into_iter().find(|line| line.contains(text)) {
                    return line;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        let Ok(line) = timeout(PATIENCE, search).await else {
            panic!("no line with {text:?} in {:?}", [self.stdout(), self.stderr()]);
        };
        line
    }

    /// Until the process ends of its own accord; then all its lines are there.
    pub async fn wait_for_exit(&mut self) -> ExitStatus {
        let status = timeout(PATIENCE, async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("the function's process goes on");
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        status
    }
}

impl Drop for Bootstrap {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
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
    ended: impl FnOnce() + Send + 'static,
) -> (Arc<Mutex<Vec<String>>>, JoinHandle<()>) {
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let reader = thread::spawn({
        let lines = lines.clone();
        move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
            ended();
        }
    });
    (lines, reader)
}

//! TLS as in production: a certificate authority that the function's process is told to trust, and the server's side of
//! it, with session tickets.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::{net::TcpStream, task::AbortHandle};
pub use tokio_rustls::TlsConnector;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ClientConfig, HandshakeKind, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName},
        server::NoServerSessionStorage,
    },
    server::TlsStream,
};

use crate::files::temporary;

/// A certificate authority of its own. Its file goes with it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    file: PathBuf,
}

impl Authority {
    /// One whose file holds its certificate alone.
    #[allow(clippy::new_without_default, reason = "it makes a file")]
    pub fn new() -> Self {
        Self::beside("")
    }

    /// One whose file holds the system's certificates, too, so that a process that loads them has as much to do as in
    /// production.
    ///
    /// # Panics
    ///
    /// Where the system has none.
    pub fn beside_the_systems() -> Self {
        let bundle = SYSTEM_BUNDLES.iter().map(Path::new).find(|bundle| bundle.exists());
        let bundle = bundle.unwrap_or_else(|| panic!("none of {SYSTEM_BUNDLES:?} is there: install ca-certificates"));
        Self::beside(&fs::read_to_string(bundle).unwrap())
    }

    fn beside(others: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Authority of the tests");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = temporary(&format!("authority-{}-{number}.pem", process::id()));
        fs::write(&file, format!("{others}\n{}", certificate.pem())).unwrap();
        Self { issuer: Issuer::new(params, key), certificate: certificate.der().clone(), file }
    }

    /// For `SSL_CERT_FILE`: a process that has it in its environment trusts the certificates of this file and no others.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// A client that does nothing else, and resumes sessions.
    pub fn connector(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(ring::default_provider().into());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        TlsConnector::from(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    }

    /// The name that a client of a server at this address expects. Sessions are resumed by names, so that two services
    /// that share an address get each other's tickets, which no service of AWS does.
    pub fn server_name(address: SocketAddr) -> ServerName<'static> {
        ServerName::from(address.ip())
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        // It is of no use, and does no harm.
        let _ = fs::remove_file(&self.file);
    }
}

/// Where Debian and its like, and Amazon Linux, have the certificates that they trust.
const SYSTEM_BUNDLES: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// A server that is reached over TLS, for as long as this lives.
pub struct Tls {
    address: SocketAddr,
    handshakes: Arc<Handshakes>,
    task: AbortHandle,
}

/// The server's part of handshakes, counted.
pub(crate) struct Handshakes {
    acceptor: TlsAcceptor,
    full: AtomicUsize,
    resumed: AtomicUsize,
}

impl Handshakes {
    /// Of a server on a loopback address. Its clients may resume sessions.
    pub(crate) fn new(authority: &Authority) -> Self {
        let key = KeyPair::generate().unwrap();
        let names = ["127.0.0.1", "127.0.0.2", "localhost"].map(ToOwned::to_owned);
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &authority.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let builder = ServerConfig::builder_with_provider(ring::default_provider().into());
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        // As a fleet of servers does it, that have no memory in common.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = ring::Ticketer::new().unwrap();
        let (full, resumed) = Default::default();
        Self { acceptor: TlsAcceptor::from(Arc::new(config)), full, resumed }
    }

    /// `None` where the client does not do its part.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let stream = self.acceptor.accept(stream).await.ok()?;
        let counter = match stream.get_ref().1.handshake_kind() {
            Some(HandshakeKind::Resumed) => &self.resumed,
            _ => &self.full,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        Some(stream)
    }
}

impl Tls {
    pub(crate) fn new(address: SocketAddr, handshakes: Arc<Handshakes>, task: AbortHandle) -> Self {
        Self { address, handshakes, task }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many handshakes there were with a certificate and a signature, and how many that went by a ticket of an earlier
    /// one.
    pub fn handshakes(&self) -> (usize, usize) {
        let Handshakes { full, resumed, .. } = &*self.handshakes;
        (full.load(Ordering::Relaxed), resumed.load(Ordering::Relaxed))
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        self.task.abort();
    }
}

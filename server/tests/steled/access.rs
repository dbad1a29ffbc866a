//! Who may do what: tokens, certificates, roles, writers that are bound to their names.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use stele_api::refusal::from_status;
use stele_api::v1::cluster_client::ClusterClient;
use stele_api::v1::log_client::LogClient;
use stele_api::v1::{
    AppendRequest, CheckpointRequest, DescribeRequest, Draft, HeadRequest, ReadRequest, RefusalCode,
    SealSegmentRequest, StatusRequest, Submission, submission,
};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use crate::process::{Cluster, Extra, ORIGIN, Writer, append_one, code, submit};

/// Adds a header to each call.
#[derive(Clone)]
struct Show(&'static str);

impl tonic::service::Interceptor for Show {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if !self.0.is_empty() {
            request.metadata_mut().insert("authorization", self.0.parse().unwrap());
        }
        Ok(request)
    }
}

type Shown = InterceptedService<Channel, Show>;

fn head(writer_id: &str) -> HeadRequest {
    HeadRequest { log: ORIGIN.to_owned(), writer_id: writer_id.to_owned(), stream: "s".to_owned() }
}

fn denied<T>(result: Result<T, Status>) -> (Code, Option<RefusalCode>) {
    let status = result.err().unwrap();
    (status.code(), from_status(&status).map(|refusal| refusal.code()))
}

const FORBIDDEN: (Code, Option<RefusalCode>) = (Code::PermissionDenied, Some(RefusalCode::Forbidden));
const UNKNOWN: (Code, Option<RefusalCode>) = (Code::Unauthenticated, None);

fn table(token: &str, rest: &str) -> String {
    format!("[[access]]\ntoken = \"b3:{}\"\n{rest}\n", blake3::hash(token.as_bytes()))
}

#[tokio::test]
async fn each_caller_does_what_its_roles_allow_and_a_writer_writes_as_itself_only() {
    let tables = table("t-writer", "roles = [\"writer\"]\nwriters = [\"w\", \"app-*\"]\nstreams = [\"s\"]\n")
        + &table("t-reader", "roles = [\"reader\"]")
        + &table("t-auditor", "roles = [\"auditor\"]")
        + &table("t-operator", "name = \"the operator\"\nroles = [\"operator\"]");
    let mut cluster = Cluster::configured(1, Extra { tables: &tables, ..Extra::default() });
    cluster.start(1).await;
    let channel = Endpoint::from_shared(format!("http://{}", cluster.address(1))).unwrap().connect_lazy();
    let log = |token| LogClient::with_interceptor(channel.clone(), Show(token));
    let admin = |token| ClusterClient::with_interceptor(channel.clone(), Show(token));
    let [mut writer, mut reader] = ["Bearer t-writer", "Bearer t-reader"].map(log);
    // The log is led once its first record is there.
    while reader.read(ReadRequest { log: ORIGIN.to_owned(), ..ReadRequest::default() }).await.is_err() {
        tokio::time::sleep(crate::process::LOOK).await;
    }

    // Records: those of others are refused, the rest of the message is not.
    let (mut first, mut other, mut app) = (Writer::new("w"), Writer::new("other"), Writer::new("app-7"));
    let draft = |writer_id: &str, stream: &str| Submission {
        record: Some(submission::Record::Draft(Draft {
            writer_id: writer_id.into(),
            stream: stream.into(),
            kind: "K".into(),
            ..Draft::default()
        })),
        payload: None,
    };
    let records = vec![
        submit(&first.finished(0)),
        submit(&other.finished(0)),
        submit(&first.finished(1)),
        submit(&app.finished(0)),
        draft("w", "t"),
        draft("other", "s"),
        draft("w", "s"),
        submit(&other.finished(1)),
    ];
    let codes: Vec<RefusalCode> = append_one(&mut writer, records).await.iter().map(code).collect();
    let (good, bad) = (RefusalCode::Unspecified, RefusalCode::Forbidden);
    assert_eq!(codes, [good, bad, good, good, bad, bad, good, bad]);

    // Calls.
    let append = |mut log: LogClient<Shown>| async move {
        let requests = tokio_stream::iter(Vec::<AppendRequest>::new());
        log.append(requests).await.map(drop)
    };
    for token in ["Bearer t-reader", "Bearer t-auditor", "Bearer t-operator"] {
        assert_eq!(denied(append(log(token)).await), FORBIDDEN, "{token}");
    }
    for token in ["", "Bearer wrong", "t-writer"] {
        assert_eq!(denied(append(log(token)).await), UNKNOWN, "{token}");
        assert_eq!(denied(log(token).describe(DescribeRequest::default()).await), UNKNOWN, "{token}");
    }
    let checkpoint = CheckpointRequest { log: ORIGIN.to_owned() };
    assert_eq!(denied(writer.checkpoint(checkpoint.clone()).await), FORBIDDEN);
    log("Bearer t-auditor").checkpoint(checkpoint).await.unwrap();
    assert_eq!(writer.head(head("w")).await.unwrap().into_inner().head.unwrap().seq, 3);
    assert_eq!(denied(writer.head(head("other")).await), FORBIDDEN);
    let read = |start, end| ReadRequest { log: ORIGIN.to_owned(), start, end: Some(end), ..ReadRequest::default() };
    let index = writer.head(head("w")).await.unwrap().into_inner().head.unwrap().index;
    let mut own = writer.read(read(index, index + 1)).await.unwrap().into_inner();
    assert_eq!(own.message().await.unwrap().unwrap().records.len(), 1);
    for (start, end) in [(0, 1), (index - 1, index + 1), (index + 1000, index + 1001)] {
        assert_eq!(denied(writer.read(read(start, end)).await), FORBIDDEN, "{start}..{end}");
    }
    assert_eq!(reader.head(head("other")).await.unwrap().into_inner().head, None);
    let (status, seal) = (StatusRequest { log: ORIGIN.to_owned() }, SealSegmentRequest { log: ORIGIN.to_owned() });
    assert_eq!(denied(admin("Bearer t-reader").status(status.clone()).await), FORBIDDEN);
    admin("Bearer t-auditor").status(status).await.unwrap();
    assert_eq!(denied(admin("Bearer t-auditor").seal_segment(seal.clone()).await), FORBIDDEN);
    admin("Bearer t-operator").seal_segment(seal).await.unwrap();

    assert!(cluster.terminate(1).await.success());
    let told = cluster.log_of(1);
    assert!(told.contains("(\"CALLS_UNAUTHENTICATED\", 6)"), "{told}");
    assert!(told.contains("(\"REFUSAL_CODE_FORBIDDEN\", 14)"), "{told}");
    assert!(!told.contains("t-writer") && !told.contains("panicked"), "{told}");
}

/// An authority, and certificates for these names: each with its key, PEM.
pub(crate) fn certificates(names: &[&str]) -> (String, Vec<(String, String)>) {
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = authority.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(authority, key);
    let issue = |name: &&str| {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(vec![(*name).to_owned()]).unwrap();
        (parameters.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    };
    (root, names.iter().map(issue).collect())
}

#[tokio::test]
async fn a_certificate_names_its_caller() {
    let (root, issued) = certificates(&["localhost", "Reader.example.com", "stranger.example.com"]);
    let scratch = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = scratch.path().join(name);
        std::io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), text.as_bytes()).unwrap();
        path
    };
    let (ca, cert, key) = (write("ca", &root), write("cert", &issued[0].0), write("key", &issued[0].1));
    let clients = format!("client_tls.ca = {ca:?}\nclient_tls.cert = {cert:?}\nclient_tls.key = {key:?}");
    let tables = "[[access]]\ncertificate = \"reader.example.com\"\nroles = [\"reader\"]\n";
    let mut cluster = Cluster::configured(1, Extra { clients: &clients, tables, ..Extra::default() });
    cluster.start(1).await;
    let log = |number: usize| {
        let identity = Identity::from_pem(&issued[number].0, &issued[number].1);
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&root)).identity(identity);
        let tls = tls.domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://{}", cluster.address(1))).unwrap();
        LogClient::new(endpoint.tls_config(tls).unwrap().connect_lazy())
    };
    let (mut reader, mut stranger) = (log(1), log(2));
    let read = ReadRequest { log: ORIGIN.to_owned(), ..ReadRequest::default() };
    while let Err(status) = reader.read(read.clone()).await {
        assert!(matches!(status.code(), Code::Unavailable | Code::NotFound), "{status}");
        tokio::time::sleep(crate::process::LOOK).await;
    }
    assert_eq!(denied(stranger.read(read).await), UNKNOWN);
    let requests = tokio_stream::iter(Vec::<AppendRequest>::new());
    assert_eq!(denied(reader.append(requests).await), FORBIDDEN);
}

//! Every route against a member made of plain fields, byte by byte, over a real socket.

use super::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;

#[derive(Clone)]
struct Fake(Arc<Mutex<Fields>>);

struct Fields {
    status: Status,
    alarms: Vec<&'static str>,
    local: Result<(), proto::Error>,
    linearizable: Answer,
}

#[derive(Clone)]
enum Answer {
    Now(Result<(), proto::Error>),
    Never,
}

impl HealthSource for Fake {
    fn status(&self) -> Arc<Status> {
        Arc::new(self.0.lock().unwrap().status.clone())
    }
    fn alarms(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().alarms.clone()
    }
    async fn read_local(&self) -> Result<(), proto::Error> {
        self.0.lock().unwrap().local.clone()
    }
    async fn read_linearizable(&self) -> Result<(), proto::Error> {
        let answer = self.0.lock().unwrap().linearizable.clone();
        match answer {
            Answer::Now(result) => result,
            Answer::Never => std::future::pending().await,
        }
    }
    fn check_time_max(&self) -> Duration {
        Duration::from_millis(20)
    }
    fn facts(&self) -> Facts {
        Facts {
            status: self.status(),
            ..Facts::default()
        }
    }
}

/// A served fake; ends with the test.
struct Server {
    fake: Fake,
    address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<std::io::Result<()>>>,
}

impl Server {
    fn start() -> Server {
        let status = Status {
            leader: 1,
            ready: true,
            ..Status::default()
        };
        let fields = Fields {
            status,
            alarms: vec![],
            local: Ok(()),
            linearizable: Answer::Now(Ok(())),
        };
        let fake = Fake(Arc::new(Mutex::new(fields)));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let routes = router(fake.clone());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(serve_metrics(listener, routes, async {
                let _ = stopped.await;
            }))
        });
        Server {
            fake,
            address,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn set(&self, change: impl FnOnce(&mut Fields)) {
        change(&mut self.fake.0.lock().unwrap());
    }

    /// The whole answer to one request.
    fn ask(&self, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: member\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Status code and body.
    fn get(&self, path: &str) -> (u16, String) {
        let answer = self.ask("GET", path);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    fn assert(&self, path: &str, code: u16, body: &str) {
        assert_eq!(self.get(path), (code, body.to_owned()), "GET {path}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let served = self.thread.take().unwrap().join().unwrap();
        served.unwrap();
    }
}

const HEALTHY: &str = r#"{"health":"true","reason":""}"#;

fn unhealthy(reason: &str) -> String {
    format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n")
}

#[test]
fn health_tries_alarms_then_leader_then_a_read() {
    let server = Server::start();
    server.assert("/health", 200, HEALTHY);
    server.set(|fields| fields.linearizable = Answer::Now(Err(proto::Error::LeaderChanged)));
    server.assert("/health", 503, &unhealthy("RANGE ERROR:etcdserver: leader changed"));
    server.assert("/health?serializable=true", 200, HEALTHY);
    server.set(|fields| fields.status.leader = 0);
    server.assert("/health", 503, &unhealthy("RAFT NO LEADER"));
    server.assert("/health?serializable=true", 200, HEALTHY);
    server.set(|fields| fields.local = Err(proto::Error::Stopped));
    server.assert(
        "/health?serializable=true",
        503,
        &unhealthy("RANGE ERROR:etcdserver: server stopped"),
    );
    server.set(|fields| fields.alarms = vec!["NOSPACE", "CORRUPT"]);
    server.assert("/health", 503, &unhealthy("ALARM NOSPACE"));
    server.assert("/health?exclude=NOSPACE", 503, &unhealthy("ALARM CORRUPT"));
    server.assert(
        "/health?exclude=NOSPACE&exclude=CORRUPT",
        503,
        &unhealthy("RAFT NO LEADER"),
    );
}

#[test]
fn a_read_that_never_answers_fails_in_time() {
    let server = Server::start();
    server.set(|fields| fields.linearizable = Answer::Never);
    server.assert("/health", 503, &unhealthy("RANGE ERROR:etcdserver: request timed out"));
    server.assert("/livez", 200, "ok\n");
    let details = "[-]linearizable_read failed: etcdserver: request timed out\n\n";
    server.assert("/readyz/linearizable_read", 503, details);
}

#[test]
fn livez_and_readyz_name_their_checks() {
    let server = Server::start();
    server.assert("/livez", 200, "ok\n");
    server.assert("/livez?verbose", 200, "[+]serializable_read ok\nok\n");
    let all = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n";
    server.assert("/readyz?verbose", 200, all);
    server.assert("/readyz/non_learner", 200, "ok\n");
    server.assert("/readyz/non_learner?verbose=", 200, "[+]non_learner ok\nok\n");
    server.assert("/livez/non_learner", 404, "404 page not found\n");
}

#[test]
fn failures_always_come_with_details_and_can_be_excluded() {
    let server = Server::start();
    server.set(|fields| {
        fields.alarms = vec!["CORRUPT"];
        fields.status.is_learner = true;
    });
    let details = "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n\
                   [+]linearizable_read ok\n[-]non_learner failed: not supported for learner\n\n";
    server.assert("/readyz", 503, details);
    server.assert("/readyz?exclude=data_corruption&exclude=non_learner", 200, "ok\n");
    server.assert(
        "/readyz?exclude=data_corruption&exclude=non_learner&exclude=unheard_of",
        200,
        "ok\n",
    );
    server.assert(
        "/readyz/data_corruption",
        503,
        "[-]data_corruption failed: alarm activated: CORRUPT\n\n",
    );
    server.assert("/livez", 200, "ok\n");
    // Another alarm is no corruption.
    server.set(|fields| fields.alarms = vec!["NOSPACE"]);
    server.assert("/readyz/data_corruption", 200, "ok\n");
}

#[test]
fn version_waits_for_the_cluster() {
    let server = Server::start();
    server.assert(
        "/version",
        200,
        r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#,
    );
    assert!(
        server
            .ask("GET", "/version")
            .contains("content-type: application/json\r\n")
    );
    server.set(|fields| fields.status.ready = false);
    server.assert(
        "/version",
        200,
        r#"{"etcdserver":"3.7.1","etcdcluster":"not_decided","storage":"unknown"}"#,
    );
}

#[test]
fn other_methods_are_refused_and_other_paths_unknown() {
    let server = Server::start();
    for path in ["/health", "/livez", "/readyz/non_learner", "/version", "/metrics"] {
        for method in ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"] {
            let answer = server.ask(method, path);
            assert!(answer.starts_with("HTTP/1.1 405 "), "{method} {path}: {answer}");
            assert!(answer.contains("allow: GET\r\n"), "{answer}");
        }
    }
    assert_eq!(server.get("/nothing").0, 404);
}

#[test]
fn metrics_count_the_checks_that_were_asked_for() {
    let server = Server::start();
    assert!(!server.get("/metrics").1.contains("etcd_server_healthcheck{"));
    server.get("/health");
    server.set(|fields| fields.status.leader = 0);
    server.get("/health");
    server.get("/livez");
    server.set(|fields| fields.local = Err(proto::Error::Stopped));
    server.get("/livez");
    let answer = server.ask("GET", "/metrics");
    assert!(
        answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{answer}"
    );
    for line in [
        "etcd_server_health_success 1",
        "etcd_server_health_failures 1",
        "etcd_server_has_leader 0",
        "etcd_server_healthcheck{type=\"livez\",name=\"serializable_read\"} 0",
        "etcd_server_healthchecks_total{type=\"livez\",name=\"serializable_read\",status=\"success\"} 1",
        "etcd_server_healthchecks_total{type=\"livez\",name=\"serializable_read\",status=\"error\"} 1",
    ] {
        assert!(answer.lines().any(|served| served == line), "{line} in\n{answer}");
    }
}

#[test]
fn a_client_that_never_reads_does_not_hold_up_the_stop() {
    let server = Server::start();
    let mut idle = TcpStream::connect(server.address).unwrap();
    // Half a request: graceful shutdown alone would wait for its end.
    write!(idle, "GET /metrics HTTP/1.1\r\nHost: ").unwrap();
    server.get("/livez");
    let before = std::time::Instant::now();
    drop(server);
    assert!(before.elapsed() < STOP_TIME_MAX + Duration::from_secs(4));
}

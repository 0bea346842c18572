//! Databases: real servers from Debian's packages, started here on free ports, stopped, killed and started again.

pub(crate) mod daemon;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use pccl_proto::ids::{PeerGroup, Term};
use pccl_proto::record::{StoreReply, StoreRequest};
use rustix::process::Signal;

use self::daemon::{Etcd, Postgres, Running, command, folder, hand_over, program, until};
use super::conformance::{RUN, content, group, store_conformance, take_term, write};
use super::{EtcdStore, PostgresStore, StateStore, StoreUrl};

impl Postgres {
    fn start(options: &[String]) -> Self {
        let postgres = Self::begin(options);
        postgres.answers();
        postgres
    }

    fn store(&self, name: &str) -> PostgresStore {
        PostgresStore::named(&StoreUrl::new(self.url()), name).unwrap()
    }

    fn answers(&self) {
        let mut store = self.store("nothing");
        until("PostgreSQL", || answers(&mut store));
    }

    /// kill -9 of all of it, and a new start on the same files.
    fn restart(&mut self) {
        let port = self.running.port;
        self.running.kill();
        // Its children end by themselves; only then a new one starts.
        until("a new PostgreSQL", || {
            let line = Self::line(self.dir.path(), port, &[]);
            let Some(running) = Running::start_at(self.dir.path(), "postgres.log", port, line) else {
                return false;
            };
            self.running = running;
            true
        });
        self.answers();
    }
}

impl Etcd {
    fn start() -> Self {
        let etcd = Self::begin();
        etcd.answers();
        etcd
    }

    fn store(&self, name: &str) -> EtcdStore {
        EtcdStore::named(&StoreUrl::new(self.url()), name).unwrap()
    }

    fn answers(&self) {
        let mut store = self.store("/nothing");
        until("etcd", || answers(&mut store));
    }

    fn restart(&mut self) {
        let port = self.running.port;
        self.running.kill();
        until("a new etcd", || {
            let line = Self::line(self.dir.path(), port);
            let Some(running) = Running::start_at(self.dir.path(), "etcd.log", port, line) else {
                return false;
            };
            self.running = running;
            true
        });
        self.answers();
    }
}

fn answers(store: &mut dyn StateStore) -> bool {
    matches!(store.execute(&StoreRequest::Read { id: 1 }), StoreReply::Record { .. })
}

/// Asks until there is an answer; a server on a busy machine may need a while.
fn ask(store: &mut dyn StateStore, request: &StoreRequest) -> StoreReply {
    let mut last = None;
    until("an answer", || {
        last = Some(store.execute(request));
        !matches!(last, Some(StoreReply::Unknown { .. }))
    });
    last.unwrap()
}

/// Names for stores that are empty.
fn names() -> impl FnMut() -> String {
    let mut n = 0;
    move || {
        n += 1;
        format!("/run-{n}")
    }
}

/// The server is stopped while it is written to: the outcome is unknown, and what is read afterwards stays.
fn a_stopped_server(store: &mut dyn StateStore, running: &Running) {
    assert!(matches!(ask(store, &take_term(1, RUN)), StoreReply::Taken { .. }));
    running.signal(Signal::STOP);
    let begun = Instant::now();
    let reply = store.execute(&write(2, 1, 0, group(1, 2)));
    let StoreReply::Unknown { id: 2, why } = reply else { panic!("{reply:?}") };
    assert!(why.contains(&format!("127.0.0.1:{}", running.port)), "{why}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    running.signal(Signal::CONT);
    let read = StoreRequest::Read { id: 3 };
    let StoreReply::Record { record, .. } = ask(store, &read) else { panic!() };
    // A write that was still on its way has had its time.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(content(store), *record);
    let landed = record.groups.contains_key(&PeerGroup(5));
    let expected = if landed { StoreReply::Rejected { id: 4 } } else { StoreReply::Written { id: 4 } };
    assert_eq!(ask(store, &write(4, 1, 0, group(1, 2))), expected);
    assert_eq!(content(store).groups.get(&PeerGroup(5)), Some(&group(1, 2)));
}

/// Two masters that want the same: each term is taken once, and only the newest one writes.
fn two_masters<S: StateStore>(mut one: S, mut two: S) {
    std::thread::scope(|scope| {
        for store in [&mut one, &mut two] {
            scope.spawn(move || {
                for id in 0..10 {
                    assert!(matches!(ask(store, &take_term(id, RUN)), StoreReply::Taken { .. }));
                }
            });
        }
    });
    let term = content(&mut one).term;
    assert!(term.0 >= 20, "{term}");
    assert_eq!(content(&mut two).term, term);
    let older = write(1, term.0 - 1, 0, group(1, 1));
    assert_eq!(ask(&mut one, &older), StoreReply::Rejected { id: 1 });
    assert_eq!(ask(&mut two, &write(2, term.0, 0, group(1, 1))), StoreReply::Written { id: 2 });
    assert_eq!(content(&mut one).groups.get(&PeerGroup(5)), Some(&group(1, 1)));
}

#[test]
fn postgres_conforms_and_outlives_trouble() {
    let mut postgres = Postgres::start(&[]);
    let mut name = names();
    store_conformance(|| postgres.store(&name()));
    two_masters(postgres.store("two"), postgres.store("two"));
    a_stopped_server(&mut postgres.store("stopped"), &postgres.running);
    let mut store = postgres.store("killed");
    assert!(matches!(ask(&mut store, &take_term(1, RUN)), StoreReply::Taken { .. }));
    let record = content(&mut store);
    postgres.restart();
    let StoreReply::Record { record: after, .. } = ask(&mut store, &StoreRequest::Read { id: 1 }) else {
        panic!()
    };
    assert_eq!(*after, record);
    assert_eq!(ask(&mut store, &write(2, 1, 0, group(1, 1))), StoreReply::Written { id: 2 });
}

#[test]
fn postgres_behind_a_pooler_in_transaction_mode() {
    let postgres = Postgres::start(&[]);
    let dir = folder();
    let users = dir.path().join("users");
    fs::write(&users, "\"pccl\" \"\"\n").unwrap();
    hand_over(&users);
    let pooler = Running::start(dir.path(), "pgbouncer.log", |port| {
        let file = dir.path().join("pgbouncer.ini");
        let (server, users, socket) = (postgres.running.port, users.display(), dir.path().display());
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir = {socket}\nauth_type = trust\nauth_file = {users}\n\
             pool_mode = transaction\ndefault_pool_size = 3\n"
        );
        fs::write(&file, text).unwrap();
        hand_over(&file);
        let mut line = command(&program("pgbouncer"));
        line.arg(file);
        line
    });
    let url = StoreUrl::new(format!("postgres://pccl@127.0.0.1:{}/postgres?sslmode=disable", pooler.port));
    let mut name = names();
    store_conformance(|| PostgresStore::named(&url, &name()).unwrap());
    let open = || PostgresStore::named(&url, "two").unwrap();
    two_masters(open(), open());
}

#[test]
fn postgres_by_tls_is_who_it_says() {
    let dir = folder();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let (certificate, key) = (dir.path().join("server.crt"), dir.path().join("server.key"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    hand_over(&certificate);
    hand_over(&key);
    let setting = |name: &str, path: &Path| format!("--{name}={}", path.display());
    let options =
        ["--ssl=on".to_owned(), setting("ssl_cert_file", &certificate), setting("ssl_key_file", &key)];
    let postgres = Postgres::start(&options);
    let url = |root: &Path| {
        let (port, root) = (postgres.running.port, root.display());
        StoreUrl::new(format!("postgres://pccl@127.0.0.1:{port}/postgres?sslmode=require&sslrootcert={root}"))
    };
    let mut store = PostgresStore::new(&url(&certificate)).unwrap();
    let StoreReply::Taken { record, .. } = ask(&mut store, &take_term(1, RUN)) else { panic!() };
    assert_eq!(record.term, Term(1));
    // Another authority has not signed it.
    let other = dir.path().join("other.crt");
    fs::write(&other, rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap().cert.pem()).unwrap();
    let mut store = PostgresStore::new(&url(&other)).unwrap();
    let StoreReply::Unknown { why, .. } = store.execute(&StoreRequest::Read { id: 1 }) else { panic!() };
    assert!(why.contains("certificate"), "{why}");
    let missing = PostgresStore::new(&url(Path::new("/nowhere.crt"))).unwrap_err().to_string();
    assert!(missing.contains("/nowhere.crt"), "{missing}");
}

#[test]
fn etcd_conforms_and_outlives_trouble() {
    let mut etcd = Etcd::start();
    let mut name = names();
    store_conformance(|| etcd.store(&name()));
    two_masters(etcd.store("/two"), etcd.store("/two"));
    a_stopped_server(&mut etcd.store("/stopped"), &etcd.running);
    let mut store = etcd.store("/killed");
    assert!(matches!(ask(&mut store, &take_term(1, RUN)), StoreReply::Taken { .. }));
    let record = content(&mut store);
    etcd.restart();
    let StoreReply::Record { record: after, .. } = ask(&mut store, &StoreRequest::Read { id: 1 }) else {
        panic!()
    };
    assert_eq!(*after, record);
    assert_eq!(ask(&mut store, &write(2, 1, 0, group(1, 1))), StoreReply::Written { id: 2 });
}

#[test]
fn addresses_that_make_no_sense_are_refused_without_their_secrets() {
    let postgres = |url: &str| PostgresStore::new(&StoreUrl::new(url)).unwrap_err().to_string();
    let etcd = |url: &str| EtcdStore::new(&StoreUrl::new(url)).unwrap_err().to_string();
    for said in [
        postgres("postgres://me:hidden@db/run?nonsense=1"),
        postgres("postgres://me:hidden@db:port/run"),
        etcd("ftp://me:hidden@db"),
        etcd("http://"),
    ] {
        assert!(said.contains("failed to use the store at"), "{said}");
        assert!(!said.contains("hidden"), "{said}");
    }
}

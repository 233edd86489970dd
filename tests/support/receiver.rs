//! An HTTP server that takes what nodes post, and answers as the test says.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use serde_json::Value;

/// A request that came in.
#[derive(Debug, Clone)]
pub struct Post {
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Post {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// Status and body of an answer; status 0: none comes.
type Answer = Box<dyn Fn(&Post) -> (u16, String) + Send + Sync>;

/// See the module. Stopped when it is dropped.
pub struct Receiver {
    pub port: u16,
    posts: Arc<Mutex<Vec<Post>>>,
    answer: Arc<Mutex<Arc<Answer>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    pub fn start(port: u16, answer: impl Fn(&Post) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        let port = listener.local_addr().expect("it listens").port();
        let answer: Arc<Mutex<Arc<Answer>>> = Arc::new(Mutex::new(Arc::new(Box::new(answer))));
        let (posts, stop) = (Arc::<Mutex<Vec<Post>>>::default(), Arc::<AtomicBool>::default());
        let (kept, answers, stopped) = (posts.clone(), answer.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for socket in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (kept, answers) = (kept.clone(), answers.clone());
                // It ends with its connection.
                std::thread::spawn(move || socket.map(|socket| take(&socket, &kept, &answers)));
            }
        });
        Self { port, posts, answer, stop, thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/weir?token=hidden", self.port)
    }

    /// Answers otherwise from now on.
    pub fn answer(&self, answer: impl Fn(&Post) -> (u16, String) + Send + Sync + 'static) {
        *self.answer.lock().unwrap() = Arc::new(Box::new(answer));
    }

    pub fn posts(&self) -> Vec<Post> {
        self.posts.lock().unwrap().clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes it.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Takes the requests of one connection.
fn take(socket: &TcpStream, posts: &Mutex<Vec<Post>>, answer: &Mutex<Arc<Answer>>) -> Option<()> {
    let mut reader = BufReader::new(socket);
    loop {
        let mut lines = reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty());
        assert!(lines.next()?.starts_with("POST "));
        let headers: Vec<_> = lines
            .filter_map(|line| {
                let (name, value) = line.split_once(':')?;
                Some((name.to_lowercase(), value.trim().to_owned()))
            })
            .collect();
        let mut post = Post { headers, body: String::new() };
        let len = post.header("content-length").parse().ok()?;
        reader.by_ref().take(len).read_to_string(&mut post.body).ok()?;
        let answer = answer.lock().unwrap().clone();
        let (status, body) = answer(&post);
        posts.lock().unwrap().push(post);
        if status == 0 {
            // Nothing is said until the other side has had enough.
            return reader.read_to_end(&mut Vec::new()).ok().map(|_| ());
        }
        let len = body.len();
        write!(&mut &*socket, "HTTP/1.1 {status} X\r\ncontent-length: {len}\r\n\r\n{body}").ok()?;
    }
}

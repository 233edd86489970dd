//! Viewers: what their players report is counted once, wherever they report, and is still known when it is over.

mod support;

use std::io::{BufRead, BufReader};

use serde_json::{Value, json};
use support::{Answer, Node, Publisher, cluster, get, request, secs, wait};

const SOURCE_ONLY: &str = "ladder=[]";
const PROXY: &str = "http.trusted_proxies=[\"127.0.0.1/32\"]";

fn publish(node: &Node, stream: &str) -> Publisher {
    Publisher::test_picture(node, stream, "320x180", 30, "-g 60 -b:v 300k", "-b:a 64k", 120)
}

fn report(node: &Node, lines: &str) -> Answer {
    request("POST", &node.url("/api/v1/cmcd"), &[("content-type", "application/cmcd")], Some(lines))
}

/// The reports of these viewers, number `sn` of each.
fn lines(viewers: std::ops::Range<u32>, cid: &str, state: &str, sn: u32) -> String {
    let line =
        |n| format!("br=(364),cid=\"{cid}\",e=t,ltc=4000,sid=\"v{n}\",sn={sn},sta={state},ts={},v=2\n", 1000 + sn);
    viewers.map(line).collect()
}

fn watch(node: &Node, viewers: std::ops::Range<u32>, sn: u32) {
    let answer = report(node, &lines(viewers, "alice", "p", sn));
    assert_eq!(answer.status, 204, "{}", answer.text());
}

fn shown(node: &Node) -> Value {
    serde_json::from_slice::<Value>(&get(&node.url("/api/v1/streams/alice")).body).unwrap()["viewers"].clone()
}

fn wait_shown(node: &Node, viewers: u32) {
    wait(&format!("{viewers} viewers, {} now", shown(node)), secs(10), || (shown(node) == viewers).then_some(()));
}

fn audience(node: &Node, path: &str) -> Value {
    let answer = node.admin("GET", path, None);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

fn metric(node: &Node, name: &str) -> f64 {
    let text = get(&node.url("/metrics")).text();
    let sum = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
    sum.map(|value| value.parse::<f64>().unwrap()).sum()
}

#[test]
fn viewers_are_counted_and_known_when_it_is_over() {
    let mut node = Node::start(&[SOURCE_ONLY, PROXY]);
    let publisher = publish(&node, "alice");
    let broadcast = node.wait_live("alice")["broadcast"].as_str().unwrap().to_owned();
    assert_eq!(shown(&node), 0);
    watch(&node, 0..30, 0);
    wait("the peak", secs(5), || {
        let told = audience(&node, "/api/v1/streams/alice/audience");
        (told["total"]["peak"] == 30).then_some(())
    });
    // Some halt, one has an error, some leave, one has paused.
    report(&node, &lines(0..3, "alice", "r", 1));
    report(&node, &lines(0..3, "alice", "p", 1501));
    report(&node, "cid=\"alice\",e=e,ec=(\"levelLoadError\"),sid=\"v4\",sn=1,sta=f,ts=2000,v=2");
    report(&node, &lines(20..29, "alice", "q", 2));
    report(&node, &lines(29..30, "alice", "a", 2));
    wait_shown(&node, 19);
    let told = wait("what viewers have is added up", secs(5), || {
        let told = audience(&node, "/api/v1/streams/alice/audience");
        told["now"]["kbps"].is_u64().then_some(told)
    });
    assert_eq!((&told["now"]["viewers"], &told["now"]["paused"]), (&json!(19), &json!(1)));
    assert_eq!(told["now"]["renditions"], json!([{ "name": "source", "viewers": 19 }]));
    assert_eq!((&told["now"]["kbps"], &told["now"]["latency_ms"]), (&json!(364), &json!(4000)));
    let total = &told["total"];
    assert_eq!((&total["joins"], &total["peak"]), (&json!(30), &json!(30)), "{total}");
    // All of them came from one address.
    assert_eq!((&total["uniques"], &total["stalls"], &total["stall_ms"]), (&json!(1), &json!(3), &json!(4500)));
    assert_eq!(total["errors"], json!([{ "code": "levelLoadError", "count": 1 }]));

    let printed = String::from_utf8(node.weir(&["audience", "alice"]).stdout).unwrap();
    let has = |name: &str, value: &str| {
        printed.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.trim() == value))
    };
    assert!(has("now: viewers", "19") && has("joins", "30"), "{printed}");

    // Dashboards are told while it goes on.
    let events = ureq::get(node.url("/api/v1/streams/alice/audience/events"));
    let events = events.header("authorization", &node.bearer()).call().unwrap();
    let mut lines_of = BufReader::new(events.into_body().into_reader()).lines().map(Result::unwrap);
    let event: Vec<String> = lines_of.by_ref().take(2).collect();
    assert_eq!(event[0], "event: now");
    let data: Value = serde_json::from_str(event[1].strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(data["viewers"], 19);
    drop(lines_of);

    // Moments get names.
    let marked = node.admin("POST", "/api/v1/streams/alice/marks", Some(r#"{"label":" the song\u0007 "}"#));
    assert_eq!(marked.status, 201, "{}", marked.text());
    for (body, status) in [(r#"{"label":"  "}"#, 422), (r#"{"label":1}"#, 400), ("{}", 400)] {
        assert_eq!(node.admin("POST", "/api/v1/streams/alice/marks", Some(body)).status, status, "{body}");
    }
    assert_eq!(audience(&node, "/api/v1/streams/alice/audience")["marks"][0]["label"], "the song");

    // A node that stops and starts again knows who watches; players are not counted as new.
    node.terminate();
    node.start_again();
    wait_shown(&node, 19);
    watch(&node, 5..20, 90);
    assert_eq!(shown(&node), 19);
    // One that is lost counts them again as they report.
    node.crash_and_restart();
    watch(&node, 0..19, 91);
    wait_shown(&node, 19);
    publisher.kill();

    // It is known when it is over. Who watches the recording is counted beside it.
    let path = format!("/api/v1/broadcasts/{broadcast}/audience");
    report(&node, &lines(50..53, &format!("alice/{broadcast}"), "p", 0));
    node.terminate();
    node.start_again();
    let told = audience(&node, &path);
    assert_eq!((&told["total"]["peak"], &told["total"]["stalls"]), (&json!(30), &json!(3)), "{told}");
    assert_eq!(told["marks"][0]["label"], "the song");
    let series = told["series"].as_array().unwrap();
    assert!(series.iter().map(|point| point["joins"].as_u64().unwrap()).sum::<u64>() >= 30, "{told}");
    let csv = node.admin("GET", &format!("{path}.csv"), None);
    assert_eq!(csv.header("content-type"), "text/csv; charset=utf-8");
    assert!(csv.text().starts_with("at,viewers,peak,") && csv.text().lines().count() > 1, "{}", csv.text());
    let printed = node.weir(&["audience", "alice", "--broadcast", &broadcast, "--csv"]);
    assert!(String::from_utf8(printed.stdout).unwrap().starts_with("at,viewers,peak,"));
    assert_eq!(get(&node.url(&path)).status, 401);
}

#[test]
fn what_is_no_report_does_no_harm() {
    let node = Node::start(&[SOURCE_ONLY, PROXY, "audience.sessions_per_address=50"]);
    let _publisher = publish(&node, "alice");
    let live = node.wait_live("alice");
    let far = u64::MAX;
    let good = "cid=\"alice\",e=t,sid=\"a\",sta=p,v=2,zz=(1 2;x),com.example-key=\"y\"";
    for (body, status) in [
        ("", 400),
        ("\n \n", 400),
        ("{\"sid\":\"x\"}", 400),
        ("sid=\"x", 400),
        ("br=(1),cid=\"alice\"", 400),
        ("\u{0}\u{1}", 400),
        (&"a".repeat(1 << 20), 413),
        (good, 204),
        (&format!("{good}\nrubbish===\n"), 204),
        // What is not here, or not yet, or no name at all.
        ("cid=\"nobody\",sid=\"a\",sta=p", 204),
        ("cid=\"../../etc\",sid=\"a\",sta=p", 204),
        ("cid=\"alice/01notthere\",sid=\"a\",sta=p", 204),
        ("sid=\"no-content\",sta=p", 204),
        (&format!("cid=\"alice\",sid=\"future\",sn=1,sta=p,ts={far}"), 204),
        ("cid=\"alice\",sid=\"future\",sn=2,sta=p,ts=5", 204),
    ] {
        let answer = report(&node, body);
        assert_eq!(answer.status, status, "{:.60}: {}", body, answer.text());
        if status >= 400 {
            assert_eq!(answer.header("content-type"), "application/problem+json");
        }
    }
    wait_shown(&node, 2);
    // Sessions that one address makes up, and others beside them.
    for lot in 0..20 {
        report(&node, &lines(lot * 200..(lot + 1) * 200, "alice", "p", 0));
    }
    wait_shown(&node, 50);
    let from = |address: &str| {
        let headers = [("x-forwarded-for", address), ("content-type", "text/plain")];
        request(
            "POST",
            &node.url("/api/v1/cmcd"),
            &headers,
            Some(&good.replace("sid=\"a\"", &format!("sid=\"{address}\""))),
        )
    };
    assert_eq!((from("192.0.2.1").status, from("2001:db8::1").status), (204, 204));
    wait_shown(&node, 52);
    assert!(metric(&node, "weir_viewer_reports_total{result=\"crowded\"}") >= 3950.0);
    assert!(metric(&node, "weir_viewer_reports_total{result=\"malformed\"}") >= 8.0);

    // One report in an address, one with a request for media, and the questions of other sites' players.
    let query = "CMCD=cid%3D%22alice%22%2Csid%3D%22q%22%2Csta%3Dp";
    let headers = [("x-forwarded-for", "192.0.2.2")];
    assert_eq!(request("GET", &node.url(&format!("/api/v1/cmcd?{query}")), &headers, None).status, 204);
    assert_eq!(get(&node.url("/api/v1/cmcd?x=1")).status, 400);
    let path = format!("/hls/alice/{}/source/index.m3u8", live["broadcast"].as_str().unwrap());
    let plain = get(&node.url(&path));
    let media = "?CMCD=br%3D300%2Csid%3D%22m%22%2Cot%3Dm";
    let reported = request("GET", &node.url(&format!("{path}{media}")), &headers, None);
    assert_eq!((plain.status, reported.status), (200, 200));
    let told = [("x-forwarded-for", "192.0.2.3"), ("cmcd-session", "sid=\"h\""), ("cmcd-object", "br=300")];
    assert_eq!(request("GET", &node.url(&path), &told, None).status, 200);
    wait_shown(&node, 55);
    let asked = request("OPTIONS", &node.url("/api/v1/cmcd"), &[("origin", "https://example.com")], None);
    assert_eq!((asked.status, asked.header("access-control-allow-headers")), (204, "content-type"));
    assert_eq!(asked.header("access-control-allow-origin"), "*");
    assert_eq!(request("DELETE", &node.url("/api/v1/cmcd"), &[], None).status, 405);

    // Viewers whose players report nothing show in the requests for playlists.
    wait("an estimate", secs(20), || {
        get(&node.url(&path));
        let now = &audience(&node, "/api/v1/streams/alice/audience")["now"];
        (now["estimate"].as_u64() > Some(0)).then_some(())
    });

    for query in ["from=yesterday", "from=9&to=5", "points=0", "points=5000", "from=0"] {
        let answer = node.admin("GET", &format!("/api/v1/streams/alice/audience?{query}"), None);
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
    }
    assert_eq!(node.admin("GET", "/api/v1/streams/nobody/audience", None).status, 404);
    assert_eq!(get(&node.url("/api/v1/streams/alice/audience")).status, 401);
}

#[test]
fn only_who_holds_a_ticket_is_counted_where_one_is_needed() {
    let node = Node::start(&[SOURCE_ONLY, "auth.playback=\"ticket\""]);
    let _publisher = publish(&node, "alice");
    node.wait_live("alice");
    watch(&node, 0..3, 0);
    let ticket = node.ticket("alice");
    let to = |ticket: &str| node.url(&format!("/t/{ticket}/api/v1/cmcd"));
    for (ticket, viewers) in [(ticket.as_str(), 10..12), ("made.up.ticket", 12..15)] {
        assert_eq!(request("POST", &to(ticket), &[], Some(&lines(viewers, "alice", "p", 0))).status, 204);
    }
    wait_shown(&node, 2);
    assert_eq!(metric(&node, "weir_viewer_reports_total{result=\"refused\"}"), 6.0);
}

#[test]
fn an_edge_counts_for_its_upstream_and_knows_the_whole() {
    let origin = Node::start(&[SOURCE_ONLY]);
    let _publisher = publish(&origin, "alice");
    origin.wait_live("alice");
    let upstream = format!("edge.upstream=[\"http://127.0.0.1:{}\"]", origin.internal);
    let edge = |id: &str| Node::start(&["node.roles=[\"edge\"]", &upstream, &format!("node.id={id}")]);
    let mut edges = [edge("edge-1"), edge("edge-2")];
    edges.iter().for_each(|edge| _ = edge.wait_live("alice"));
    watch(&origin, 0..5, 0);
    watch(&edges[0], 5..15, 0);
    watch(&edges[1], 15..22, 0);
    wait_shown(&origin, 22);
    edges.iter().for_each(|edge| wait_shown(edge, 22));
    // Some move to another edge, and an edge is lost with its viewers, who report elsewhere: nobody counts twice, or not at all.
    watch(&edges[1], 5..10, 1);
    wait("the move is told", secs(10), || (metric(&edges[1], "weir_viewers ") == 12.0).then_some(()));
    edges[0].crash();
    wait_shown(&origin, 22);
    watch(&origin, 10..15, 1);
    wait_shown(&origin, 22);
    wait_shown(&edges[1], 22);
    // What the edge counted is stored by its upstream: its last minute when it stops at the latest.
    edges[1].terminate();
    let total = audience(&origin, "/api/v1/streams/alice/audience")["total"].clone();
    assert_eq!(total["peak"], 22, "{total}");
}

#[test]
fn counts_agree_at_all_nodes_of_a_cluster() {
    let mut nodes = cluster::start(&[SOURCE_ONLY]);
    let [owner, standby, other] = cluster::places("alice");
    let _publisher = publish(&nodes[other], "alice");
    nodes.iter().for_each(|node| _ = node.wait_live("alice"));
    watch(&nodes[owner], 0..10, 0);
    watch(&nodes[standby], 10..30, 0);
    watch(&nodes[other], 30..60, 0);
    nodes.iter().for_each(|node| wait_shown(node, 60));
    // A node is lost: its viewers are counted until they report elsewhere, and it knows them when it is back.
    nodes[standby].crash();
    watch(&nodes[other], 10..20, 7);
    assert_eq!((shown(&nodes[owner]), shown(&nodes[other])), (json!(60), json!(60)));
    nodes[standby].start_again();
    wait_shown(&nodes[standby], 60);
    watch(&nodes[standby], 20..30, 8);
    report(&nodes[other], &lines(10..20, "alice", "q", 9));
    nodes.iter().for_each(|node| wait_shown(node, 50));
    // What they counted adds up.
    nodes.iter_mut().for_each(|node| _ = node.terminate());
    nodes.iter_mut().for_each(|node| node.start_again());
    let path = "/api/v1/streams/alice/audience?points=5";
    let told = wait("the store is read", secs(20), || {
        let answer = nodes[owner].admin("GET", path, None);
        (answer.status == 200).then(|| serde_json::from_slice::<Value>(&answer.body).unwrap())
    });
    let joins: u64 = told["series"].as_array().unwrap().iter().map(|point| point["joins"].as_u64().unwrap()).sum();
    // The node that was lost had not written what it counted in its last seconds.
    assert!((40..=60).contains(&joins), "{told}");
}

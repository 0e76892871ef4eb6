//! `/openapi.json` says what the server does: its paths, the user's types, every other answer; and all of it resolves.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{SocketAddr, TcpListener};

use forebay::source::deferred::Deferred;
use forebay::source::http::Http;
use forebay::{Bytes, Pipeline, Worker};
use forebay_tests::{Client, start};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Ask {
    /// What to count.
    #[schemars(length(min = 1, max = 3))]
    texts: Vec<String>,
    #[serde(default)]
    style: Style,
}

#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Style {
    #[default]
    Plain,
    Fancy,
}

#[derive(Serialize, JsonSchema)]
struct Answer {
    count: u32,
    style: Style,
}

/// With a field that need not come, but always goes.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Both {
    #[serde(default)]
    inner: Inner,
}

#[derive(Default, Deserialize, Serialize, JsonSchema)]
struct Inner {
    #[serde(default)]
    n: u8,
}

fn count() -> Pipeline<Ask, Answer> {
    let count = |_, ask: Ask| async move { Ok(Answer { count: ask.texts.len() as u32, style: ask.style }) };
    Pipeline::new().io("count", 1, count)
}

/// The document, and where it came from.
async fn described(worker: Worker, set: impl FnOnce(Http) -> Http) -> (Value, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // The server has answered by then, so nobody need listen to the worker's end.
    drop(start(worker.source(set(Http::on(listener).unwrap()))));
    let answer = Client::connect(address).await.get("/openapi.json").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let document: Value = serde_json::from_slice(&answer.body).unwrap();
    for reference in references(&document) {
        let found = document.pointer(reference.strip_prefix('#').unwrap());
        assert!(found.is_some(), "{reference} leads nowhere");
    }
    (document, address)
}

fn references(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(map) => {
            let own = map.get("$ref").and_then(Value::as_str);
            own.into_iter().chain(map.values().flat_map(references)).collect()
        }
        Value::Array(list) => list.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_and_types_are_told_as_they_are() {
    let worker = Worker::new(count()).route("raw", Pipeline::<Value, Value>::new());
    let (document, _) =
        described(worker, |http| http.path("/v1/count", "").types::<Ask, Answer>("").title("Counter").version("1.2.3"))
            .await;
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"], json!({ "title": "Counter", "version": "1.2.3" }));
    let paths = ["/health/live", "/health/ready", "/health/startup", "/metrics", "/raw", "/v1/count"];
    assert_eq!(keys(&document["paths"]), paths);
    assert_eq!(keys(&document["paths"]["/v1/count"]), ["post"]);

    let schemas = &document["components"]["schemas"];
    assert_eq!(keys(schemas), ["Answer", "Ask", "Problem", "Style"]);
    let style = json!({ "type": "string", "enum": ["plain", "fancy"] });
    assert_eq!(schemas["Style"], style);
    let ask = json!({
        "type": "object",
        "properties": {
            "texts": {
                "description": "What to count.",
                "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": 3,
            },
            "style": { "$ref": "#/components/schemas/Style", "default": "plain" },
        },
        "additionalProperties": false,
        "required": ["texts"],
    });
    assert_eq!(schemas["Ask"], ask);
    let answer = json!({
        "type": "object",
        "properties": {
            "count": { "type": "integer", "format": "uint32", "minimum": 0 },
            "style": { "$ref": "#/components/schemas/Style" },
        },
        "required": ["count", "style"],
    });
    assert_eq!(schemas["Answer"], answer);
    assert_eq!(schemas["Problem"]["required"], json!(["type", "title", "status", "detail"]));

    let post = &document["paths"]["/v1/count"]["post"];
    let of =
        |name: &str| json!({ "application/json": { "schema": { "$ref": format!("#/components/schemas/{name}") } } });
    assert_eq!(post["requestBody"], json!({ "required": true, "content": of("Ask") }));
    let given = &post["responses"]["200"]["content"];
    assert_eq!(keys(given), ["application/json", "text/event-stream"]);
    assert_eq!(given["application/json"], of("Answer")["application/json"]);
    assert_eq!(given["text/event-stream"]["schema"]["type"], "string");
    assert_eq!(keys(&post["responses"]), ["200", "400", "408", "409", "413", "415", "422", "500", "503", "504"]);
    for (status, response) in post["responses"].as_object().unwrap().iter().filter(|(status, _)| *status != "200") {
        let shared = response["$ref"].as_str().unwrap().strip_prefix('#').unwrap();
        let shared = document.pointer(shared).unwrap();
        assert_eq!(keys(&shared["content"]), ["application/problem+json"]);
        assert_eq!(shared["headers"].get("Retry-After").is_some(), status == "503", "{status}");
    }
    let parameter = |name: &str| json!({ "$ref": format!("#/components/parameters/{name}") });
    assert_eq!(post["parameters"], json!([parameter("Timeout"), parameter("IdempotencyKey")]));
    assert_eq!(document["components"]["parameters"]["Timeout"]["name"], "x-request-timeout");
    assert_eq!(post.get("security"), None);
    assert_eq!(document["components"].get("securitySchemes"), None);

    let free = json!({ "application/json": { "schema": {} } });
    assert_eq!(document["paths"]["/raw"]["post"]["requestBody"]["content"], free);
    let given = &document["paths"]["/raw"]["post"]["responses"]["200"]["content"];
    assert_eq!(given["application/json"], free["application/json"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_may_have_types_of_its_own_and_bytes_are_any_type() {
    let worker = Worker::new(Pipeline::<Value, Value>::new());
    let worker = worker.route_with_codec("raw", Pipeline::<Bytes, Bytes>::new(), |_, its| Ok(its), |_, its| Ok(its));
    let set = |http: Http| http.path("/a", "").path("/b", "").types::<u8, bool>("").types::<Vec<u8>, String>("/b");
    let (document, _) = described(worker, set).await;
    let schema = |path: &str, of: &str| {
        let post = &document["paths"][path]["post"];
        let media = if of == "200" { &post["responses"]["200"] } else { &post[of] };
        media["content"].as_object().unwrap().iter().map(|(media, its)| (media.clone(), its["schema"].clone())).next()
    };
    let byte = json!({ "type": "integer", "format": "uint8", "minimum": 0, "maximum": 255 });
    let json = "application/json".to_owned();
    assert_eq!(schema("/a", "requestBody"), Some((json.clone(), byte.clone())));
    assert_eq!(schema("/a", "200"), Some((json.clone(), json!({ "type": "boolean" }))));
    assert_eq!(schema("/b", "requestBody"), Some((json.clone(), json!({ "type": "array", "items": byte }))));
    assert_eq!(schema("/b", "200"), Some((json, json!({ "type": "string" }))));
    assert_eq!(schema("/raw", "requestBody"), Some(("*/*".to_owned(), json!({}))));
    assert_eq!(schema("/raw", "200"), Some(("application/octet-stream".to_owned(), json!({}))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_type_that_comes_and_goes_in_two_ways_has_two_names() {
    let worker = Worker::new(Pipeline::<Both, Both>::new());
    let (document, _) = described(worker, |http| http.types::<Both, Both>("")).await;
    let schemas = &document["components"]["schemas"];
    assert_eq!(keys(schemas), ["Both", "Both2", "Inner", "Inner2", "Problem"]);
    assert_eq!(schemas["Both"].get("required"), None);
    assert_eq!(schemas["Both2"]["required"], json!(["inner"]));
    assert_eq!(schemas["Both2"]["properties"]["inner"]["$ref"], "#/components/schemas/Inner2");
    assert_eq!(schemas["Inner2"]["required"], json!(["n"]));
    let given = &document["paths"]["/"]["post"]["responses"]["200"]["content"]["application/json"]["schema"];
    assert_eq!(given["$ref"], "#/components/schemas/Both2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_told_of_but_not_asked_for_here() {
    let (document, address) = described(Worker::new(count()), |http| http.keys(["secret"])).await;
    let security = json!([{ "bearer": [] }, { "key": [] }]);
    for path in [&document["paths"]["/"]["post"], &document["paths"]["/metrics"]["get"]] {
        assert_eq!(path["security"], security);
        assert_eq!(path["responses"]["401"]["$ref"], "#/components/responses/Unauthorized");
    }
    assert_eq!(document["paths"]["/health/ready"]["get"].get("security"), None);
    assert_eq!(keys(&document["components"]["securitySchemes"]), ["bearer", "key"]);
    assert!(!document.to_string().contains("secret"));
    let mut client = Client::connect(address).await;
    let answer = client.post("/openapi.json", "{}").await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("get,head")));
    assert_eq!(client.get("/").await.header("allow"), Some("post"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_for_nothing_keep_the_worker_from_starting() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let http = Http::on(listener).unwrap().types::<Ask, Answer>("cuont");
    let why = Worker::new(count()).source(http).run_once().await.unwrap_err();
    assert!(why.to_string().contains("types are told for `cuont`"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_nobody_waits_for_are_told_of_where_there_can_be_some() {
    let folder = tempfile::tempdir().unwrap();
    let later = Deferred::folder(folder.path()).unwrap();
    let set = |http: Http| http.types::<Ask, Answer>("").deferred(&later);
    let (document, address) = described(Worker::new(count()), set).await;
    let paths =
        ["/", "/health/live", "/health/ready", "/health/startup", "/jobs/{id}", "/jobs/{id}/result", "/metrics"];
    assert_eq!(keys(&document["paths"]), paths);
    assert_eq!(keys(&document["paths"]["/jobs/{id}"]), ["delete", "get"]);
    assert_eq!(keys(&document["paths"]["/jobs/{id}/result"]["get"]["responses"]), ["200", "404", "409", "503"]);
    // This worker sends no webhooks.
    assert_eq!(keys(&document["components"]["parameters"]), ["IdempotencyKey", "Job", "Prefer", "Timeout"]);

    // What is answered has the fields that were told, and those that must be there.
    let accepted = &document["paths"]["/"]["post"]["responses"]["202"];
    let job = accepted["content"]["application/json"]["schema"]["$ref"].as_str().unwrap();
    let job = document.pointer(job.strip_prefix('#').unwrap()).unwrap();
    assert_eq!(job["required"], json!(["id", "state", "created"]));
    let headers = "content-type: application/json\r\nprefer: respond-async\r\n";
    let mut client = Client::connect(address).await;
    let answer = client.post_with("/", headers, br#"{"texts": ["a"]}"#).await;
    assert_eq!(answer.status, 202);
    let names = keys(&accepted["headers"]).iter().map(|name| name.to_lowercase()).collect::<Vec<_>>();
    assert!(names.iter().all(|name| answer.header(name).is_some()), "{names:?}");
    let told: Value = serde_json::from_slice(&answer.body).unwrap();
    assert!(keys(&told).iter().all(|field| job["properties"].get(field).is_some()), "{told}");
    assert!(told.get("id").is_some() && told.get("state").is_some() && told.get("created").is_some(), "{told}");
}

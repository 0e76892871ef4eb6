//! `GET /openapi.json`: what callers may send and what they get, as OpenAPI 3.1, from the program's own types.
//!
//! The document is made once, at the start. It promises that what it says of a path is what the server does; what a
//! stage refuses beyond its types, only the types can say, such as a shortest length.

mod jobs;
mod schemas;

use axum::http::StatusCode;
use bytes::Bytes;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::{Http, Settings, answer, ask, once, stream};
use crate::error::{Context, Error, Result};
use crate::source::RouteInfo;
use crate::source::deferred::Registry;
use schemas::{Schemas, Types};

/// Where the document is.
pub(super) const PATH: &str = "/openapi.json";

/// What an answer is that comes as it comes.
const EVENTS: &str = "With `Accept: text/event-stream`: events named `progress`, `partial`, and at the end `result` or \
    `error`, whose data is a result or a problem document.";

/// What the program says of its service.
#[derive(Default)]
pub(super) struct Description {
    title: Option<String>,
    version: Option<String>,
    types: Vec<(String, Types)>,
}

/// What `GET /openapi.json` says (feature `openapi`).
impl Http {
    /// Describes by these types what the pipeline with the route `of` (the first one's is empty) takes and gives, in
    /// `GET /openapi.json`. `of` may be a [`path`](Http::path) instead, where one pipeline has several that differ.
    /// What is not described is free in form. Requires the feature `openapi`.
    pub fn types<In: JsonSchema, Out: JsonSchema>(mut self, of: impl Into<String>) -> Self {
        self.description.types.push((of.into(), Types::of::<In, Out>()));
        self
    }

    /// The title of `/openapi.json`; the program's file name unless set. Requires the feature `openapi`.
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.description.title = Some(title.into());
        self
    }

    /// The service's version in `/openapi.json`; `0.0.0` unless set. Requires the feature `openapi`.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.description.version = Some(version.into());
        self
    }
}

impl Description {
    /// The document for these paths, each with the index of its route.
    pub(super) fn document(
        &self,
        routes: &[RouteInfo],
        paths: &[(String, usize)],
        settings: &Settings,
        deferred: Option<&Registry>,
    ) -> Result<Bytes> {
        for (of, _) in &self.types {
            if !routes.iter().any(|route| route.name == *of) && !paths.iter().any(|(path, _)| path == of) {
                let why = format_args!("types are told for `{of}`, but no pipeline has that route, and none that path");
                return Err(Error::invalid(why));
            }
        }
        let keyed = !settings.keys.is_empty();
        let types = paths.iter().map(|(path, route)| self.types_of(path, &routes[*route].name)).collect::<Vec<_>>();
        let Schemas { shared, of_types, of_problem, of_job } = Schemas::of(&types, deferred.is_some());
        let mut all = Map::new();
        for ((path, route), (takes, gives)) in paths.iter().zip(&of_types) {
            let mut post = operation(&routes[*route], takes, gives, keyed);
            if let Some(registry) = deferred {
                jobs::may_be_deferred(&mut post, registry, &of_job);
            }
            all.insert(path.clone(), json!({ "post": post }));
        }
        if deferred.is_some() {
            all.extend(jobs::paths(&of_job, keyed));
        }
        // A pipeline may answer `POST` at the same path.
        let mut get = |path: &str, operation| all.entry(path).or_insert_with(|| json!({}))["get"] = operation;
        for (path, about) in [
            ("/health/startup", "Whether the models are loaded."),
            ("/health/live", "Whether the process is alive."),
            ("/health/ready", "Whether requests would be answered in time."),
        ] {
            get(path, probe(about));
        }
        get("/metrics", metrics(keyed, &of_problem));
        let responses = problems(keyed).map(|(status, about)| (name(status), problem(status, about, &of_problem)));
        let mut components = json!({
            "schemas": shared,
            "responses": responses.collect::<Map<_, _>>(),
            "parameters": {
                "Timeout": {
                    "name": ask::TIMEOUT,
                    "in": "header",
                    "description":
                        "Within how many seconds the answer is wanted, if sooner than the service's own limit.",
                    "schema": { "type": "number", "exclusiveMinimum": 0 },
                },
                "IdempotencyKey": {
                    "name": once::HEADER,
                    "in": "header",
                    "description": "Requests with the same key are worked on once, and have the same answer.",
                    "schema": { "type": "string", "minLength": 1, "maxLength": once::LONGEST },
                },
            },
        });
        if let Some(registry) = deferred {
            jobs::add_components(&mut components, registry, &of_problem);
        }
        if keyed {
            components["securitySchemes"] = json!({
                "bearer": { "type": "http", "scheme": "bearer" },
                "key": { "type": "apiKey", "in": "header", "name": "X-Api-Key" },
            });
        }
        let document = json!({
            "openapi": "3.1.0",
            "info": {
                "title": self.title.clone().unwrap_or_else(program),
                "version": self.version.as_deref().unwrap_or("0.0.0"),
            },
            "paths": all,
            "components": components,
        });
        Ok(serde_json::to_vec(&document).context("writing the OpenAPI document")?.into())
    }

    /// What was told of a path, or else of its route.
    fn types_of(&self, path: &str, route: &str) -> Option<Types> {
        let told = |name: &str| self.types.iter().find(|(of, _)| of == name);
        told(path).or_else(|| told(route)).map(|(_, types)| *types)
    }
}

fn operation(route: &RouteInfo, takes: &Schema, gives: &Schema, keyed: bool) -> Value {
    let mut responses = Map::new();
    responses.insert(
        "200".to_owned(),
        json!({
            "description": "The result.",
            "headers": { "Server-Timing": {
                "description": "Where the time went, in milliseconds.",
                "schema": { "type": "string" },
            } },
            "content": {
                route.gives: { "schema": gives },
                stream::MEDIA: { "schema": { "type": "string", "description": EVENTS } },
            },
        }),
    );
    for (status, _) in problems(keyed) {
        let shared = format!("#/components/responses/{}", name(status));
        responses.insert(status.as_str().to_owned(), json!({ "$ref": shared }));
    }
    let mut operation = json!({
        "parameters": [
            { "$ref": "#/components/parameters/Timeout" },
            { "$ref": "#/components/parameters/IdempotencyKey" },
        ],
        "requestBody": { "required": true, "content": { route.takes.unwrap_or("*/*"): { "schema": takes } } },
        "responses": responses,
    });
    secure(&mut operation, keyed);
    operation
}

fn probe(about: &str) -> Value {
    let text = |about| json!({ "description": about, "content": { "text/plain": { "schema": { "type": "string" } } } });
    json!({ "summary": about, "responses": { "200": text("Yes."), "503": text("No; the body says why.") } })
}

fn metrics(keyed: bool, of_problem: &Schema) -> Value {
    let mut operation = json!({
        "summary": "What was recorded, for Prometheus.",
        "responses": {
            "200": { "description": "The metrics.", "content": { "text/plain": { "schema": { "type": "string" } } } },
            "404": problem(StatusCode::NOT_FOUND, "The program records none.", of_problem),
        },
    });
    if keyed {
        operation["responses"]["401"] = json!({ "$ref": "#/components/responses/Unauthorized" });
    }
    secure(&mut operation, keyed);
    operation
}

fn secure(operation: &mut Value, keyed: bool) {
    if keyed {
        operation["security"] = json!([{ "bearer": [] }, { "key": [] }]);
    }
}

/// Every other answer that a pipeline's path may give.
fn problems(keyed: bool) -> impl Iterator<Item = (StatusCode, &'static str)> {
    let all = [
        (StatusCode::BAD_REQUEST, "The body cannot be read as what it should be, or a header is wrong."),
        (StatusCode::UNAUTHORIZED, "No key was sent, or a wrong one."),
        (StatusCode::REQUEST_TIMEOUT, "The body came too slowly."),
        (StatusCode::CONFLICT, "A request with this idempotency key is at work."),
        (StatusCode::PAYLOAD_TOO_LARGE, "The body is too large, as sent or as unpacked."),
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is of another media type or encoding."),
        (StatusCode::UNPROCESSABLE_ENTITY, "The input is wrong; the detail says what of it."),
        (StatusCode::INTERNAL_SERVER_ERROR, "The job failed."),
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "It would not be answered in time, or the worker starts, stops or has failed.",
        ),
        (StatusCode::GATEWAY_TIMEOUT, "It was not answered in time."),
    ];
    all.into_iter().filter(move |(status, _)| keyed || *status != StatusCode::UNAUTHORIZED)
}

fn problem(status: StatusCode, about: &str, schema: &Schema) -> Value {
    let mut response = json!({ "description": about, "content": { answer::PROBLEM: { "schema": schema } } });
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response["headers"] = json!({ "Retry-After": {
            "description": "After how many seconds to try again.",
            "schema": { "type": "integer", "minimum": 1 },
        } });
    }
    response
}

/// What a response is called among the shared ones: `BadRequest`.
fn name(status: StatusCode) -> String {
    status.canonical_reason().unwrap_or("Other").replace(' ', "")
}

fn program() -> String {
    let path = std::env::current_exe().ok();
    let name = path.as_deref().and_then(|path| path.file_stem()).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "forebay".to_owned())
}

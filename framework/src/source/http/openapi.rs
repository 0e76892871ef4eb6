//! `GET /openapi.json`: what callers may send and what they get, as OpenAPI 3.1, from the program's own types.
//!
//! The document is made once, at the start. It promises that what it says of a path is what the server does; what a
//! stage refuses beyond its types, only the types can say, such as a shortest length.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use bytes::Bytes;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::{Http, Settings, answer, ask};
use crate::error::{Context, Error, Result};
use crate::source::RouteInfo;

/// Where the document is.
pub(super) const PATH: &str = "/openapi.json";
/// Where the types are in it.
const SCHEMAS: &str = "/components/schemas";

/// What the program says of its service.
#[derive(Default)]
pub(super) struct Description {
    title: Option<String>,
    version: Option<String>,
    types: Vec<(String, Types)>,
}

/// The schemas of what a pipeline takes and gives.
#[derive(Clone, Copy)]
struct Types {
    takes: fn(&mut SchemaGenerator) -> Schema,
    gives: fn(&mut SchemaGenerator) -> Schema,
}

/// What `GET /openapi.json` says (feature `openapi`).
impl Http {
    /// Describes by these types what the pipeline with the route `of` (the first one's is empty) takes and gives, in
    /// `GET /openapi.json`. `of` may be a [`path`](Http::path) instead, where one pipeline has several that differ.
    /// What is not described is free in form. Requires the feature `openapi`.
    pub fn types<In: JsonSchema, Out: JsonSchema>(mut self, of: impl Into<String>) -> Self {
        let types = Types { takes: SchemaGenerator::subschema_for::<In>, gives: SchemaGenerator::subschema_for::<Out> };
        self.description.types.push((of.into(), types));
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
    ) -> Result<Bytes> {
        for (of, _) in &self.types {
            if !routes.iter().any(|route| route.name == *of) && !paths.iter().any(|(path, _)| path == of) {
                let why = format_args!("types are told for `{of}`, but no pipeline has that route, and none that path");
                return Err(Error::invalid(why));
            }
        }
        let keyed = !settings.keys.is_empty();
        let types = paths.iter().map(|(path, route)| self.types_of(path, &routes[*route].name)).collect::<Vec<_>>();
        let Schemas { shared, of_types, of_problem } = Schemas::of(&types);
        let mut all = Map::new();
        for ((path, route), (takes, gives)) in paths.iter().zip(&of_types) {
            all.insert(path.clone(), json!({ "post": operation(&routes[*route], takes, gives, keyed) }));
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
            "parameters": { "Timeout": {
                "name": ask::TIMEOUT,
                "in": "header",
                "description": "Within how many seconds the answer is wanted, if sooner than the service's own limit.",
                "schema": { "type": "number", "exclusiveMinimum": 0 },
            } },
        });
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
            "content": { route.gives: { "schema": gives } },
        }),
    );
    for (status, _) in problems(keyed) {
        let shared = format!("#/components/responses/{}", name(status));
        responses.insert(status.as_str().to_owned(), json!({ "$ref": shared }));
    }
    let mut operation = json!({
        "parameters": [{ "$ref": "#/components/parameters/Timeout" }],
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

/// The schemas of the user's types.
struct Schemas {
    /// By name, those that others refer to.
    shared: Map<String, Value>,
    of_types: Vec<(Schema, Schema)>,
    of_problem: Schema,
}

impl Schemas {
    fn of(types: &[Option<Types>]) -> Self {
        let settings = SchemaSettings::draft2020_12().with(|its| its.definitions_path = SCHEMAS.into());
        // Apart, since a type may differ in the two, as where a field has a default.
        let mut takes = settings.clone().for_deserialize().into_generator();
        let mut gives = settings.for_serialize().into_generator();
        let any = Schema::default;
        let schemas = |types: &Option<Types>| {
            types.map_or((any(), any()), |types| ((types.takes)(&mut takes), (types.gives)(&mut gives)))
        };
        let mut of_types: Vec<_> = types.iter().map(schemas).collect();
        // Last, so that a type of the user's keeps its name.
        let mut of_problem = gives.subschema_for::<answer::Document<'_>>();
        let (mut shared, mut given) = (takes.take_definitions(true), gives.take_definitions(true));

        let both: BTreeSet<_> = shared.keys().filter(|name| given.contains_key(*name)).cloned().collect();
        if both.iter().any(|name| shared[name] != given[name]) {
            // What refers to one that differs differs too; so all that are in both get two names.
            let free = |n: &usize| {
                let taken = |name: String| shared.contains_key(&name) || given.contains_key(&name);
                !both.iter().any(|name| taken(format!("{name}{n}")))
            };
            let number = (2..).find(free).unwrap_or_default();
            let mut rename = RecursiveTransform(|schema: &mut Schema| {
                if let Some(Value::String(to)) = schema.get_mut("$ref")
                    && to.rsplit('/').next().is_some_and(|name| both.contains(name))
                {
                    *to = format!("{to}{number}");
                }
            });
            of_types.iter_mut().for_each(|(_, gives)| rename.transform(gives));
            rename.transform(&mut of_problem);
            for name in &both {
                if let Some(schema) = given.remove(name) {
                    given.insert(format!("{name}{number}"), schema);
                }
            }
            given.values_mut().flat_map(<&mut Schema>::try_from).for_each(|schema| rename.transform(schema));
        }
        shared.extend(given);
        Schemas { shared, of_types, of_problem }
    }
}

//! What `/openapi.json` says of jobs whose callers do not wait.

use schemars::Schema;
use serde_json::{Map, Value, json};

use super::super::later::{JOB, PREFER, RESULT, WEBHOOK_URL};
use super::{answer, secure};
use crate::source::deferred::Registry;

/// A pipeline's path, if the worker takes jobs in for later.
pub(super) fn may_be_deferred(post: &mut Value, registry: &Registry, of_job: &Schema) {
    let mut parameters = vec!["Prefer"];
    if registry.sends_webhooks() {
        parameters.push("WebhookUrl");
    }
    let references = parameters.iter().map(|name| json!({ "$ref": format!("#/components/parameters/{name}") }));
    if let Some(all) = post["parameters"].as_array_mut() {
        all.extend(references);
    }
    post["responses"]["202"] = json!({
        "description": "The job is on the queue.",
        "headers": {
            "Location": { "description": "Where to ask after the job.", "schema": { "type": "string" } },
            "Preference-Applied": { "schema": { "type": "string" } },
        },
        "content": { "application/json": { "schema": of_job } },
    });
}

/// The addresses of jobs.
pub(super) fn paths(of_job: &Schema, keyed: bool) -> Map<String, Value> {
    let operation = |about: &str, id: &str, found: Value, others: &[(&str, &str)]| {
        let mut operation = json!({
            "summary": about,
            "operationId": id,
            "parameters": [{ "$ref": "#/components/parameters/Job" }],
            "responses": { "200": found },
        });
        let unauthorized = keyed.then_some(("401", "Unauthorized"));
        for (status, name) in others.iter().copied().chain(unauthorized) {
            operation["responses"][status] = json!({ "$ref": format!("#/components/responses/{name}") });
        }
        secure(&mut operation, keyed);
        operation
    };
    let job = || json!({ "description": "The job.", "content": { "application/json": { "schema": of_job } } });
    let result = json!({ "description": "The result by itself.", "content": { "*/*": { "schema": {} } } });
    let missing = [("404", "NotFound"), ("503", "ServiceUnavailable")];
    let none = [("404", "NotFound"), ("409", "NoResult"), ("503", "ServiceUnavailable")];
    let of_job = json!({
        "get": operation("How far a job is.", "job", job(), &missing),
        "delete": operation("Cancels a job, unless it has ended.", "cancel", job(), &missing),
    });
    let of_result = json!({ "get": operation("A job's result.", "result", result, &none) });
    Map::from_iter([(JOB.to_owned(), of_job), (RESULT.to_owned(), of_result)])
}

/// What these refer to.
pub(super) fn add_components(components: &mut Value, registry: &Registry, of_problem: &Schema) {
    let problem = |about| json!({ "description": about, "content": { answer::PROBLEM: { "schema": of_problem } } });
    components["responses"]["NotFound"] = problem("There is no such job, or it is long over.");
    components["responses"]["NoResult"] = problem("The job has not ended, or has failed.");
    components["parameters"]["Job"] = json!({
        "name": "id", "in": "path", "required": true, "schema": { "type": "string" },
    });
    components["parameters"]["Prefer"] = json!({
        "name": PREFER,
        "in": "header",
        "description": "`respond-async`: do not wait, but answer 202 with the job's address (RFC 7240).",
        "schema": { "type": "string" },
    });
    if registry.sends_webhooks() {
        components["parameters"]["WebhookUrl"] = json!({
            "name": WEBHOOK_URL,
            "in": "header",
            "description": "Where the end of a job that was not waited for is told.",
            "schema": { "type": "string", "format": "uri" },
        });
    }
}

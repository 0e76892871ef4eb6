//! The schemas of the program's own types and of ours, each under one name.

use std::collections::BTreeSet;

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value};

use super::super::{answer, later};

/// Where they are in the document.
const SCHEMAS: &str = "/components/schemas";

/// The schemas of what a pipeline takes and gives.
#[derive(Clone, Copy)]
pub(super) struct Types {
    takes: fn(&mut SchemaGenerator) -> Schema,
    gives: fn(&mut SchemaGenerator) -> Schema,
}

impl Types {
    pub(super) fn of<In: JsonSchema, Out: JsonSchema>() -> Self {
        Types { takes: SchemaGenerator::subschema_for::<In>, gives: SchemaGenerator::subschema_for::<Out> }
    }
}

/// All schemas of a document.
pub(super) struct Schemas {
    /// By name, those that others refer to.
    pub(super) shared: Map<String, Value>,
    /// What is taken and what is given, for each of the types.
    pub(super) of_types: Vec<(Schema, Schema)>,
    pub(super) of_problem: Schema,
    pub(super) of_job: Schema,
}

impl Schemas {
    pub(super) fn of(types: &[Option<Types>], deferred: bool) -> Self {
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
        let mut of_job = if deferred { gives.subschema_for::<later::Document>() } else { any() };
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
            rename.transform(&mut of_job);
            for name in &both {
                if let Some(schema) = given.remove(name) {
                    given.insert(format!("{name}{number}"), schema);
                }
            }
            given.values_mut().flat_map(<&mut Schema>::try_from).for_each(|schema| rename.transform(schema));
        }
        shared.extend(given);
        Schemas { shared, of_types, of_problem, of_job }
    }
}

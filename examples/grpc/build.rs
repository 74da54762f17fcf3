//! Makes the service's trait and its client. An app that has a `.proto` file does this with `tonic-prost-build`,
//! which makes the messages too and needs `protoc`; the rest is the same.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let method = |name: &str, route: &str, input: &str| {
        let method = Method::builder().name(name).route_name(route).input_type(input);
        method.output_type("crate::Note").codec_path("tonic_prost::ProstCodec").build()
    };
    // To prost, a `String` is a `google.protobuf.StringValue`, and an `i64` an `Int64Value`.
    let notes = Service::builder().name("Notes").package("notes");
    let notes = notes.method(method("add", "Add", "String")).method(method("get", "Get", "i64"));
    Builder::new().compile(&[notes.build()]);
}

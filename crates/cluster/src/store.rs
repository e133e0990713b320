//! Object stores with the interface of S3, by the crate `object_store`

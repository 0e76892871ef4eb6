// One file to or from S3 with @aws-sdk: lib_storage_copy.mjs CACHE up|down ENDPOINT BUCKET KEY FILE
import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [cache, direction, endpoint, bucket, key, file] = process.argv.slice(2);
const resolve = createRequire(`${cache}/package.json`).resolve;
const { Upload } = await import(pathToFileURL(resolve("@aws-sdk/lib-storage")));
const { GetObjectCommand, HeadObjectCommand, S3Client } = await import(pathToFileURL(resolve("@aws-sdk/client-s3")));

const part = 10_000_000;
const atOnce = 10;
const client = new S3Client({ endpoint, forcePathStyle: true });

if (direction === "up") {
    const params = { Bucket: bucket, Key: key, Body: createReadStream(file) };
    await new Upload({ client, params, partSize: part, queueSize: atOnce }).done();
} else {
    // lib-storage only uploads: ranges, written as they come.
    const { ContentLength: length } = await client.send(new HeadObjectCommand({ Bucket: bucket, Key: key }));
    const into = await open(file, "w");
    let next = 0;
    const lane = async () => {
        while (next < length) {
            let at = next;
            const end = Math.min(at + part, length);
            next = end;
            const Range = `bytes=${at}-${end - 1}`;
            const { Body } = await client.send(new GetObjectCommand({ Bucket: bucket, Key: key, Range }));
            for await (const piece of Body) {
                await into.write(piece, 0, piece.length, at);
                at += piece.length;
            }
            if (at !== end) throw new Error(`a part ended at ${at} instead of ${end}`);
        }
    };
    await Promise.all(Array.from({ length: atOnce }, lane));
    await into.close();
}

// fauxqs on a loopback port, until standard input ends: serve_fauxqs.mjs PACKAGE PORT BUCKET [DIRECTORY]
import { readFileSync } from "node:fs";
import net from "node:net";
import { pathToFileURL } from "node:url";

const [folder, port, bucket, directory] = process.argv.slice(2);

// fauxqs listens on every interface and cannot be told otherwise.
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (first, ...rest) {
    const on = first !== null && typeof first === "object" ? { ...first, host: "127.0.0.1" } : first;
    return listen.call(this, on, ...rest);
};

process.stdin.on("end", () => process.exit(0)).resume();
const { main } = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"));
const { startFauxqs } = await import(pathToFileURL(`${folder}/${main}`));
const s3StorageDir = directory ? `${directory}/s3` : undefined;
const init = { buckets: [bucket] };
await startFauxqs({ port: Number(port), logger: false, dataDir: directory || undefined, s3StorageDir, init });

// Receives and deletes the messages of a queue with sqs-consumer: sqs_consumer.mjs CONSUMERS CACHE
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [consumers, cache] = process.argv.slice(2);
const resolve = createRequire(`${cache}/package.json`).resolve;
const { Consumer } = await import(pathToFileURL(resolve("sqs-consumer")));
const { SQSClient } = await import(pathToFileURL(resolve("@aws-sdk/client-sqs")));

for (let n = 0; n < Number(consumers); n++) {
    const consumer = Consumer.create({
        queueUrl: process.env.FOREBAY_SQS_QUEUE,
        sqs: new SQSClient({ endpoint: process.env.FOREBAY_SQS_ENDPOINT }),
        batchSize: 10,
        waitTimeSeconds: 1,
        handleMessageBatch: async (messages) => messages,
    });
    for (const event of ["error", "processing_error"]) {
        consumer.on(event, (why) => console.error(event, why.message));
    }
    consumer.start();
}

// A session of npm's ksqldb-client, which speaks HTTP/2 from the first byte; its answers are printed as one JSON object.
"use strict";

const KsqldbClient = require("ksqldb-client");

async function main(port, name) {
    const client = new KsqldbClient({ host: "http://127.0.0.1", port: Number(port), timeout: 60000 });
    await client.connect();
    const earliest = { streamsProperties: { "auto.offset.reset": "earliest" } };
    const statement = async (text) => (await client.executeStatement(text, earliest)).status;
    const create = `CREATE STREAM ${name} (word VARCHAR, n INT) WITH (KAFKA_TOPIC='${name}', PARTITIONS=1, VALUE_FORMAT='JSON');`;
    const count = `CREATE TABLE ${name}_T AS SELECT word, COUNT(*) AS c FROM ${name} GROUP BY word EMIT CHANGES;`;
    const found = {
        created: await statement(create),
        counted: await statement(count),
        wrong: await client.query("SELECT * FROM;"),
    };

    const rows = [];
    let queryId;
    const pushed = new Promise((resolve, reject) => {
        client
            .streamQuery(`SELECT word, n FROM ${name} EMIT CHANGES;`, (data) => {
                queryId = queryId || data.metadata.queryId;
                rows.push(...(data.rows || []));
                if (rows.length === 3) resolve();
            })
            .then((end) => (found.end = end.status), reject);
    });
    while (!queryId) await new Promise((again) => setTimeout(again, 20));
    found.inserted = [];
    for (const [word, n] of [["tree", 1], ["wind", 2], ["tree", 3]]) {
        found.inserted.push(await client.insertInto(name, { word, n }));
    }
    found.refused = await client.insertInto(name, { word: "tree", n: "no number" });
    await pushed;
    found.rows = rows;
    found.closed = await client.terminatePushQuery(queryId);
    found.closedTwice = (await client.terminatePushQuery(queryId)).status;
    while (!found.end) await new Promise((again) => setTimeout(again, 20));

    do {
        found.pulled = await client.query(`SELECT word, c FROM ${name}_T WHERE word = '\${WORD}';`, {
            sessionVariables: { WORD: "tree" },
        });
    } while (!found.pulled.data || !found.pulled.data.rows.some((row) => row.C === 2));
    found.streams = await client.listStreams();
    found.described = await client.describeSource(name);
    await client.disconnect();
    console.log(JSON.stringify(found));
}

main(...process.argv.slice(2)).catch((error) => {
    console.error(error);
    process.exit(1);
});

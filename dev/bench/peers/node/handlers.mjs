// The operations as Node.js Lambda functions: pg, one connection that is made while the function starts.
import { readFileSync } from 'node:fs';
import pg from 'pg';

// pg gives 64-bit integers as strings unless told otherwise.
pg.types.setTypeParser(pg.types.builtins.INT8, Number);

async function connect() {
  const client = new pg.Client({
    connectionString: process.env.DATABASE_URL,
    ssl: { ca: readFileSync(process.env.PGSSLROOTCERT) },
  });
  client.on('error', () => { connection = undefined; });
  await client.connect();
  return client;
}

let connection = await connect();

async function query(text, values) {
  connection ??= await connect();
  return (await connection.query(text, values)).rows;
}

function answer(statusCode, body) {
  return { statusCode, headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) };
}

export async function getUser(event) {
  const [user] = await query('SELECT id, name, age FROM users WHERE id = $1', [event.pathParameters.id]);
  return user ? answer(200, user) : answer(404, { error: 'User not found' });
}

export async function listUsers() {
  return answer(200, await query('SELECT id, name, age FROM users ORDER BY id LIMIT 1000'));
}

export async function updateUser(event) {
  const { name, age } = JSON.parse(event.body);
  const sql = 'UPDATE users SET name = $2, age = $3 WHERE id = $1 RETURNING id, name, age';
  const [user] = await query(sql, [event.pathParameters.id, name, age]);
  return user ? answer(200, user) : answer(404, { error: 'User not found' });
}

export async function createUser(event) {
  const { name, age } = JSON.parse(event.body);
  const sql = 'INSERT INTO users (name, age) VALUES ($1, $2) RETURNING id, name, age';
  return answer(201, (await query(sql, [name, age]))[0]);
}

// OpenFeature's own OFREP provider reads the flags of a running server, before and after a kill switch:
//
//   node ofrep.mjs http://127.0.0.1:8080 http://127.0.0.1:8081 support-assistant v2
import { OpenFeature } from '@openfeature/server-sdk';
import { OFREPProvider } from '@openfeature/ofrep-provider';

const [url, admin, model, version] = process.argv.slice(2);
const key = process.env.SWITCHBACK_KEY;
const headers = key ? [['Authorization', `Bearer ${key}`]] : [];
await OpenFeature.setProviderAndWait(new OFREPProvider({ baseUrl: url, headers }));
const client = OpenFeature.getClient();
const context = { targetingKey: 'ada', 'x-plan': 'beta' };
let failed = 0;
const expect = (what, found, wanted) => {
  const same = found === wanted;
  failed += same ? 0 : 1;
  console.log(`${same ? 'ok' : 'NOT OK'} ${what}: ${found}`);
};
const flag = async (body) => {
  const path = `${admin}/admin/models/${model}/versions/${version}/flag`;
  const answer = await fetch(path, { method: 'PUT', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(await answer.text());
};
const details = () => client.getBooleanDetails(`${model}@${version}`, true, context);

expect('the model is open', await client.getBooleanValue(model, false, context), true);
const served = await client.getStringValue(`${model}:version`, '', context);
expect('a version answers', served !== '', true);
await flag({ enabled: false });
const off = await details();
expect('the kill switch', off.value, false);
expect('its reason', off.reason, 'DISABLED');
await flag({ cohorts: [{ header: 'x-plan', is: ['beta'] }] });
expect('a cohort by an attribute', (await details()).reason, 'TARGETING_MATCH');
await flag({});
expect('open again', (await details()).value, true);
const missing = await client.getBooleanDetails('no-such-flag', true, context);
expect('a flag that is not there', missing.errorCode, 'FLAG_NOT_FOUND');
process.exitCode = failed;

// Shows the OpenAPI document of this server: paths, parameters, bodies and
// answers. Plain JavaScript, so that it needs no build.

/** An element with attributes and children; text is never read as HTML. */
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}

/** Text with what is between backticks as code. */
function prose(text) {
  const part = (piece, index) => (index % 2 ? element('code', {}, piece) : piece);
  return element('span', {}, ...text.split('`').map(part));
}

/** What a `$ref` stands for. */
function resolve(api, schema) {
  const path = schema.$ref?.replace(/^#\//, '').split('/');
  return path ? path.reduce((part, name) => part?.[name], api) ?? {} : schema;
}

/** A schema as a line of text, with its own name where it has one. */
function typeOf(api, schema) {
  if (schema.$ref) return schema.$ref.split('/').pop();
  const options = schema.oneOf ?? schema.anyOf;
  if (options) return options.map((option) => typeOf(api, option)).join(' or ');
  const types = [schema.type ?? 'any value'].flat();
  const names = types.map((type) =>
    type === 'array' ? `list of ${typeOf(api, schema.items ?? {})}` : type,
  );
  const limits = [
    ['minimum', 'at least'],
    ['minLength', 'at least'],
    ['maxLength', 'at most'],
  ].filter(([limit]) => limit in schema);
  const told = limits.map(([limit, text]) => {
    const unit = limit === 'minimum' ? '' : ' characters';
    return `${text} ${schema[limit]}${unit}`;
  });
  const values = schema.enum ? [`one of ${schema.enum.join(', ')}`] : [];
  return [names.join(' or '), ...values, ...told].join(', ');
}

function table(heads, rows) {
  const head = element('tr', {}, ...heads.map((text) => element('th', { scope: 'col' }, text)));
  const body = rows.map((cells) =>
    element('tr', {}, ...cells.map((cell) => element('td', {}, cell))),
  );
  return element('table', {}, element('thead', {}, head), element('tbody', {}, ...body));
}

/** The fields of an object, those of objects in it below them. */
function fieldRows(api, schema, prefix = '', depth = 0) {
  const object = resolve(api, schema);
  const rows = [];
  for (const [name, field] of Object.entries(object.properties ?? {})) {
    const required = object.required?.includes(name) ? 'yes' : 'no';
    const text = field.description ?? resolve(api, field).description ?? '';
    rows.push([prefix + name, typeOf(api, field), required, prose(text)]);
    const inner = field.type === 'array' ? field.items : field;
    if (depth < 4 && inner) {
      const below = field.type === 'array' ? `${prefix}${name}[].` : `${prefix}${name}.`;
      rows.push(...fieldRows(api, inner, below, depth + 1));
    }
  }
  return rows;
}

function body(api, title, content) {
  const schema = content?.['application/json']?.schema;
  if (!schema) return [];
  const named = (schema.oneOf ?? [schema]).find((option) => option.type !== 'null') ?? schema;
  const rows = fieldRows(api, named);
  if (rows.length === 0) return [element('h4', {}, title), element('p', {}, typeOf(api, schema))];
  return [element('h4', {}, title), table(['Field', 'Type', 'Required', 'Meaning'], rows)];
}

function operationOf(api, path, method, operation) {
  const parts = [];
  if (operation.description) parts.push(element('p', {}, prose(operation.description)));
  if (operation.security?.some((one) => Object.keys(one).length > 0)) {
    const names = operation.security.flatMap(Object.keys);
    const schemes = names.map((name) => api.components.securitySchemes[name]?.description);
    parts.push(element('p', {}, prose(`Authorization: Bearer. ${schemes.join('; ')}.`)));
  }
  if (operation.parameters?.length) {
    const rows = operation.parameters.map((parameter) => [
      parameter.name,
      parameter.in,
      typeOf(api, parameter.schema ?? {}),
      prose(parameter.description ?? ''),
    ]);
    parts.push(element('h4', {}, 'Parameters'), table(['Name', 'In', 'Type', 'Meaning'], rows));
  }
  parts.push(...body(api, 'Body', operation.requestBody?.content));
  const answers = Object.entries(operation.responses ?? {});
  const good = answers.find(([status]) => status.startsWith('2'))?.[1];
  parts.push(...body(api, 'Answer', good?.content));
  const rows = answers.map(([status, answer]) => [status, answer.description ?? '']);
  parts.push(element('h4', {}, 'Statuses'), table(['Status', 'Meaning'], rows));
  const summary = element(
    'summary',
    {},
    element('span', { class: `method ${method}` }, method.toUpperCase()),
    ' ',
    element('code', {}, path),
    ' ',
    operation.summary ?? '',
  );
  return element('details', {}, summary, ...parts);
}

function show(api) {
  document.getElementById('description').replaceChildren(prose(api.info.description ?? ''));
  const byTag = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = operation.tags?.[0] ?? 'other';
      const shown = operationOf(api, path, method, operation);
      byTag.set(tag, [...(byTag.get(tag) ?? []), shown]);
    }
  }
  const sections = [...byTag].map(([tag, operations]) =>
    element('section', {}, element('h2', {}, tag), ...operations),
  );
  document.getElementById('operations').replaceChildren(...sections);
}

fetch('API/openapi.json')
  .then((answer) => answer.json())
  .then(show)
  .catch((error) => {
    const text = `The document cannot be shown: ${error.message}`;
    document.getElementById('operations').replaceChildren(element('p', { role: 'alert' }, text));
  });

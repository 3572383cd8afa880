// Shows the OpenAPI document. A token that is entered here stays in the memory of the page.

const page = document.getElementById("swagger-ui");

async function show() {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error(`the service answered ${answer.status}`);
  const spec = await answer.json();
  // "Try it out" asks where this page came from, under whatever prefix: the service does not know how it is reached.
  spec.servers = [{ url: new URL(".", document.baseURI).href.replace(/\/$/, "") }];
  window.SwaggerUIBundle({ spec, domNode: page, deepLinking: true, showExtensions: true, showCommonExtensions: true });
}

show().catch((error) => {
  page.textContent = `The description of the API cannot be shown: ${error.message}`;
});

// A file of its own, because the pages of this server run no script that stands in a page.
SwaggerUIBundle({ url: "/openapi.json", dom_id: "#reference", deepLinking: true, validatorUrl: null });
